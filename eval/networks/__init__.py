"""Metrics, verdicts and report of two-layer networks."""
