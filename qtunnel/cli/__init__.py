"""The ``qtunnel`` command. Talks to a running daemon only through ``qtunnel.control``."""
