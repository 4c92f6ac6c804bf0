"""Metrics for Prometheus: what the status says, and what is counted of the events."""
