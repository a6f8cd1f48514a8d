"""XOR clusters and gradient descent on them."""
