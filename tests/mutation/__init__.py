"""The rooms' code changed in every place that a library knows to change, under their own tests: ``make mutation``."""
