"""WireGuard without I/O: bytes, packets and times go in, bytes, packets and the next deadline come out.

Follows the WireGuard white paper (Donenfeld, NDSS 2017) and, where it is silent, what the kernel module does.
"""
