"""Softmax heads on the surrogate of their population loss: an optimum, pairs, a creep."""
