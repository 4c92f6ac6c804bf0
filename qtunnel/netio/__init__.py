"""The Linux edge: TUN devices, UDP and UAPI sockets, and the loop that joins them to a sans-IO device."""

import os

# Before numpy is loaded: its BLAS, of which nothing is used here, would start threads and reserve 32 MB for each.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
