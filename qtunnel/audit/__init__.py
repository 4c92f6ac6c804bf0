"""The audit log: records in a chain of hashes, signed heads, what is found wrong with it, what it answers."""
