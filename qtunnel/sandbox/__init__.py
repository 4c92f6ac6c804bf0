"""A place with processes and networks of its own, and the tools that run in it: for the demo and the benchmarks."""
