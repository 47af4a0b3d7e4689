"""Softmax attention that looks up one of K tokens: its rank jumps at λ = 1/K."""
