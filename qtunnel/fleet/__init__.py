"""Gateways that tell an MQTT broker of their users' own how they are, and the view of all of them."""
