"""Whether a KME keeps to ETSI GS QKD 014 v1.1.1, and what its deviations mean for a gateway."""
