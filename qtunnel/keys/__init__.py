"""Keys before the handshake: sources, reservoir, policy, schedule, epoch chain. No I/O, no clock, no randomness."""
