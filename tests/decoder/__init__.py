"""A decoder of captures, written from docs/protocol.md alone: it imports nothing of qtunnel, its tests do."""
