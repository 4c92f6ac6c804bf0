"""Keys from a Keybox: a driver for qtunnel."""
