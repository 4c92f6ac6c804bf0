"""The formal model of the handshake (docs/formal): building it, and judging it with and without ProVerif."""
