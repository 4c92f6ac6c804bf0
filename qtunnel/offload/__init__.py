"""Segmentation offload without I/O: super-packets of a TUN become packets, and the reverse."""
