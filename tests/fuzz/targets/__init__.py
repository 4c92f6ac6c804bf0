"""The targets, a module for each part of the program; ``table.TARGETS`` has them all by their names."""
