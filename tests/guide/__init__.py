"""docs/getting-started.md, followed to the letter on two hosts that are network namespaces."""
