"""Stages, runs and the command line: composes hookpoints, saes and eval."""
