"""The units of the service, and how they get into a host's directories. ``units`` is a link to ``systemd/``."""
