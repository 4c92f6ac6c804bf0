"""Thin, typed wrappers of the cryptographic libraries: no primitive is implemented here."""
