"""Metrics, verdicts and report of XOR clusters."""
