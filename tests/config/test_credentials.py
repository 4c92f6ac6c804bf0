"""Secret files that systemd hands over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.config.credentials import changed_since, handed_before, placed
from qtunnel.errors import FilePermissionError
from qtunnel.files import check_secret_file
from qtunnel.identity import Identity

CONFIG = """\
node: {name: alice, identity: alice.secrets/alice.identity}
tunnel: {interface: qt0, addresses: [10.77.0.1/24]}
peers:
  - {name: bob, public: bob.public, endpoint: 192.0.2.1, allowed_ips: [10.77.0.2/32], qkd: {policy: off}}
"""


def test_a_file_of_a_secrets_directory_is_the_credential_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "secrets_alice.identity").touch()
    (tmp_path / "secrets_pki_sae.key").touch()
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    lies = Path("/etc/qtunnel/alice.secrets")
    assert placed(lies / "alice.identity", environ) == tmp_path / "secrets_alice.identity"
    assert placed(lies / "pki" / "sae.key", environ) == tmp_path / "secrets_pki_sae.key"
    for path in (lies / "other", Path("/etc/qtunnel/alice.identity"), Path("/etc/qtunnel/alice.secretstore/x")):
        assert placed(path, environ) == path
    assert placed(lies / "alice.identity", {}) == lies / "alice.identity"


def test_the_same_configuration_does_for_a_person_and_for_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may not even look into the directory."""
    handed, secrets = tmp_path / "credentials", tmp_path / "alice.secrets"
    handed.mkdir()
    secrets.mkdir(mode=0o700)
    Identity.create(os.urandom).save(secrets / "alice.identity")
    (tmp_path / "bob.public").write_text(Identity.create(os.urandom).public.to_text())
    (tmp_path / "alice.yaml").write_text(CONFIG)
    assert load_config(tmp_path / "alice.yaml").node.identity == secrets / "alice.identity"
    (secrets / "alice.identity").rename(handed / "secrets_alice.identity")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    assert load_config(tmp_path / "alice.yaml").node.identity == handed / "secrets_alice.identity"


def test_secret_files_that_came_after_the_start_are_noticed(tmp_path: Path) -> None:
    file, secrets, handed = (tmp_path / name for name in ("alice.yaml", "alice.secrets", "credentials"))
    environ = {"CREDENTIALS_DIRECTORY": str(handed)}
    assert changed_since(file, environ) is None, "there are none"
    for place, seconds in ((secrets, 1000), (handed, 1001)):
        place.mkdir()
        os.utime(place, (seconds, seconds))
    assert changed_since(file, environ) is None
    assert changed_since(file, {}) is None, "no service"
    (secrets / "next").touch()
    told = changed_since(file, environ)
    assert told is not None
    assert str(secrets) in told
    assert told.endswith("systemctl restart qtunnel@alice")


def test_a_file_that_was_written_over_after_the_start_is_noticed_by_who_may_look(tmp_path: Path) -> None:
    secret, copy = (
        tmp_path / "alice.secrets" / "pki" / "sae.key",
        tmp_path / "qtunnel@alice.service/secrets_pki_sae.key",
    )
    for path in (secret, copy):
        path.parent.mkdir(parents=True)
        path.write_text("old")
    assert handed_before(secret, tmp_path) is None
    os.utime(copy, (1000, 1000))
    assert handed_before(secret, tmp_path) == "qtunnel@alice"
    assert handed_before(secret.with_name("other"), tmp_path) is None
    assert handed_before(copy, tmp_path) is None, "of no directory of secrets"


@pytest.mark.skipif(os.geteuid() != 0, reason="files of root's group")
def test_the_mask_of_an_acl_is_no_open_file_but_only_for_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd lets the unit's user read a credential by an ACL, whose mask shows as the group's permission."""
    file = tmp_path / "secrets_key"
    file.write_text("x")
    file.chmod(0o440)
    with pytest.raises(FilePermissionError):
        check_secret_file(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    check_secret_file(file)
    for mode in (0o444, 0o460, 0o450):
        file.chmod(mode)
        with pytest.raises(FilePermissionError):
            check_secret_file(file)
    file.chmod(0o440)
    os.chown(file, 0, 1)
    with pytest.raises(FilePermissionError):
        check_secret_file(file)
