"""Rekeying of every peer, sans-IO: roles, exchanges, commit, protection. The daemon carries out its effects."""
