"""A QKD network in a box: topologies in YAML, the physics of their links, real KMEs over it, control, maps and plans.

For programs (the scenarios of the demo, tests), the way in is:

- ``topology_file.load_topology(path)``: a topology file; ``topology.core(now)`` would be its network.
- ``service.running(topology, sockets=...)``: an async context manager with a ``Service``: all KMEs serve,
  time passes, and until its end ``service.command("alice-bob", "cut")`` does what ``qtunnel kme ctl`` does,
  ``service.map()`` gives what ``qtunnel kme map --json`` prints (keys made, relayed, used; who learned what), and
  ``service.happenings`` are the alarms and the rest so far. sockets: listening sockets by node, made in whatever
  namespaces they belong to (``qtunnel.kme.server.listen`` inside ``Network.entered()``); without one a node listens at
  its own ``listen``, in the namespace of the process.
- ``client.ask(path, request)``: the same through the UNIX socket of ``qtunnel kme run`` in another process. Its log has
  the line ``network.ready`` when all KMEs and the socket serve.
- ``pki.make_pki(topology, now)``: the certificates of all KMEs and SAEs of a topology.
- ``time_scale: "1s = 1h"`` in the topology (or ``running(..., time_scale=3600)``) makes passes of days fit into a demo:
  keys come at the scaled rate, the SAEs take them at their own.
- ``quirks:`` of a node make its KME answer as another vendor's: ``quirks.QUIRKS`` has them.
- ``qtunnel.qkdnet.plan.plan(topology.core(average=True), tunnels, seconds)``: supply and demand in virtual time.

Only ``physics`` imports the package ``qkd``, and only where a link needs it; ``plan_report`` matplotlib.
"""
