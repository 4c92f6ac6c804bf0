"""The embedded KME: an ETSI GS QKD 014 server whose keys are simulated, so that qtunnel runs without QKD hardware."""
