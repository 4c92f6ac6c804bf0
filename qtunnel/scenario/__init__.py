"""The scenario gallery: real daemons on a simulated QKD network, a timeline, and assertions that say whether it held.

A scenario is a directory of configs/scenarios: ``README.md``, ``network.yaml`` (a topology) and ``scenario.yaml``
(sites, tunnels, timeline, assertions), by the model in ``model.py``. ``qtunnel demo --scenario NAME`` runs one.
"""
