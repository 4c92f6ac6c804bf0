"""Data planes and the one protocol by which the daemon drives them."""
