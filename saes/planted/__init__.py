"""Planted dictionaries: rows whose directions and sparse codes are known."""
