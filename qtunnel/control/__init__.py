"""The local control socket: what ``qtunnel status`` and ``qtunnel rekey`` talk to."""
