"""Manual pages, of the commands' own help and the configuration's model: ``python -m qtunnel.manual DIRECTORY``."""
