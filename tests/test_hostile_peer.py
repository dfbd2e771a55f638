"""Peers that break the protocol: each hurts its own connection, and nobody else's."""
