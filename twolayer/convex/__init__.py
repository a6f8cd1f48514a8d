"""The convex program, its patterns and cones, and its solvers."""
