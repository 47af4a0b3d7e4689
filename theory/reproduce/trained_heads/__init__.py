"""Ranks of what every head of a transformer learns, over training and over initial scales."""
