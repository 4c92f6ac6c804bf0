"""``python -m qtunnel`` is the ``qtunnel`` command."""

from qtunnel.cli.main import main

main()
