"""Every check, in the order in which they are made."""

from __future__ import annotations

from qtunnel.probe.connection_checks import client_certificate, server_name, tls_version
from qtunnel.probe.delivery_checks import dec_again, dec_get, dec_order, dec_same, dec_unknown
from qtunnel.probe.key_checks import (
    container_encoding,
    container_fields,
    container_key_ids,
    enc_get_plain,
    enc_get_size,
    enc_post,
    enc_two,
    keys_vary,
    other_size,
    two_keys,
)
from qtunnel.probe.limit_checks import enc_large, enc_mandatory, enc_many, enc_odd_size, enc_optional, too_many
from qtunnel.probe.model import Check
from qtunnel.probe.session import none, one, with_peer
from qtunnel.probe.status_checks import status_answer, status_fields, status_saes, status_sizes, status_unknown_sae

LOOKING = (
    Check("tls-version", "5.1", "TLS 1.2 or newer", none, tls_version),
    Check("client-certificate", "5.1", "who has no certificate is refused", none, client_certificate),
    Check("server-name", "5.1", "the KME's certificate names its host", none, server_name),
    Check("status", "5.2", "the status answers", none, status_answer),
    Check("status-fields", "6.1", "fields of the status", none, status_fields),
    Check("status-saes", "6.1", "the status is about these two SAEs", none, status_saes),
    Check("status-sizes", "6.1", "key sizes fit together", none, status_sizes),
    Check("unknown-sae", "5.2, 6.5", "an unknown SAE is refused", none, status_unknown_sae),
    Check("unknown-key", "5.4, 6.5", "an unknown key_ID is refused", none, dec_unknown),
)
"""These take no keys, and come before it is said how many the others take."""

TAKING = (
    Check("enc-post", "5.3", "one key by POST, with number and size", one, enc_post),
    Check("enc-get", "5.3", "one key by GET, without parameters", one, enc_get_plain),
    Check("enc-get-size", "5.3", "one key by GET, of another size", lambda s: int(bool(other_size(s))), enc_get_size),
    Check("enc-two", "5.3", "two keys in one request", two_keys, enc_two),
    Check("size-odd", "5.3, 6.2", "a size that is no multiple of 8 is refused", one, enc_odd_size),
    Check("size-large", "5.3, 6.2", "a size above max_key_size is refused", one, enc_large),
    Check("number-large", "5.3, 6.2", "a number above max_key_per_request is refused", too_many, enc_many),
    Check("extension-mandatory", "6.2", "an unknown mandatory extension is refused", one, enc_mandatory),
    Check("extension-optional", "6.2", "an unknown optional extension is ignored", one, enc_optional),
    Check("dec-post", "5.4", "the other end gets the same key by POST", with_peer(1), dec_same),
    Check("dec-get", "5.4", "the other end gets the same key by GET", with_peer(1), dec_get),
    Check("dec-order", "5.4", "a key waits while others are given out", with_peer(3), dec_order),
    Check("dec-once", "5.4", "a key is given to the other end once", with_peer(1), dec_again),
    Check("container", "6.3", "fields of the key container", none, container_fields),
    Check("key-id", "6.3", "a key_ID is a UUID", none, container_key_ids),
    Check("encoding", "6.3", "keys are in base64", none, container_encoding),
    Check("keys-vary", "6.3", "keys are not constant, nor the same", none, keys_vary),
)

CHECKS = LOOKING + TAKING
