"""Two gateways, two KMEs and real traffic on one machine: ``qtunnel demo``."""
