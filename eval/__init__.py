"""Measures and reports; never trains."""
