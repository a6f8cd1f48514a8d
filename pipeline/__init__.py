"""Composes: studies, stages, runs, the command line."""
