"""Metrics and verdicts: reads activations and trained models, never trains."""
