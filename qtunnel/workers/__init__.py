"""Processes that seal and open for an engine, where more than one core is there.

The engine keeps all that has a state: sockets, peers, counters, replay windows, timers. A worker knows sessions' keys
and does the arithmetic of a burst: split, seal, open, coalesce. So one flow of one peer has the use of many cores, and
packets stay in order.
"""
