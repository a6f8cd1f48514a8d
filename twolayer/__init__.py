"""Two-layer ReLU networks: trained to global optimality as convex programs, and grokking on XOR clusters."""
