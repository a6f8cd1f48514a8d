"""Two-layer ReLU networks: convex programs and their solvers, gradient descent, XOR clusters, estimators."""
