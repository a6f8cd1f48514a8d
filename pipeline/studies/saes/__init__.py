"""Studies of sparse autoencoders."""
