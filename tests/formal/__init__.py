"""The formal model of the handshake (docs/formal): building it, and looking at its queries with and without ProVerif."""
