"""Sparse autoencoders: architectures, exact gradients, learner, folders (torch, numpy and safetensors only)."""
