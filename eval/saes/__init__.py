"""Metrics, verdicts and report of sparse autoencoders."""
