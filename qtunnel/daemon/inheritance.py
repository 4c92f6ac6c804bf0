"""The peers of an engine that a former daemon left, brought to what the configuration has now."""

from __future__ import annotations

from dataclasses import replace

from qtunnel.engines.base import Engine, Left, PeerSpec

ENGINE_RECORD = "engine.json"
"""In the state directory: which process the engine is, for the daemon after this one."""


async def inherit(engine: Engine, left: dict[bytes, Left], specs: dict[str, PeerSpec]) -> dict[str, Left]:
    """Change nothing that is as it should be: it carries traffic. By name, the peers that were there.

    specs: by name, as the configuration has them; where a peer was heard elsewhere, it gets that endpoint.
    """
    wanted = {spec.public_key: name for name, spec in specs.items()}
    for key in left.keys() - wanted.keys():
        await engine.remove_peer(key)
    for key, name in wanted.items():
        its = left.get(key)
        # A peer that has a session was heard there, wherever it is by its name.
        if its is not None and (its.in_force is not None or specs[name].endpoint is None):
            specs[name] = replace(specs[name], endpoint=its.spec.endpoint)
        if its is None or _differs(its.spec, specs[name]):
            await engine.set_peer(specs[name])
    return {name: left[key] for key, name in wanted.items() if key in left}


def _differs(its: PeerSpec, wanted: PeerSpec) -> bool:
    """Whether the engine has something else of a peer than the configuration."""
    return set(its.allowed_ips) != set(wanted.allowed_ips) or (its.endpoint, its.persistent_keepalive) != (
        wanted.endpoint, wanted.persistent_keepalive,
    )  # fmt: skip
