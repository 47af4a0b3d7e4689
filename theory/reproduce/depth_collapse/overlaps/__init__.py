"""Tokens on the sphere with one overlap for all pairs."""
