"""Side-by-side timings; imported by nothing."""
