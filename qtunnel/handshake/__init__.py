"""The hybrid PQNoise IKpsk2 handshake, sans-IO. docs/protocol.md specifies it to the byte."""
