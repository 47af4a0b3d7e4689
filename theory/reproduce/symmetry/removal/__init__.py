"""Decay towards a random point in place of zero."""
