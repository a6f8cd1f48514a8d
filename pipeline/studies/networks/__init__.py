"""Studies of two-layer networks."""
