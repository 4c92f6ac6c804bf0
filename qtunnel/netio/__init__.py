"""The Linux edge: TUN devices, UDP and UAPI sockets, and the loop that joins them to a sans-IO device."""
