"""The interior-point method that ends ADMM."""
