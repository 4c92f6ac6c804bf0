"""The Debian package in a booted systemd: ``make test-systemd``."""
