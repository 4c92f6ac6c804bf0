"""The gateway daemon: the asyncio shell around the sans-IO cores, the engine and the key sources."""
