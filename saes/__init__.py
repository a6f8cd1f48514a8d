"""Gated and sign-aware gated sparse autoencoders: architecture, objective, exact gradients, learner."""
