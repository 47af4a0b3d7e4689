"""Softmax heads with matrices, trained on sampled prompts: how far the linear theory holds."""
