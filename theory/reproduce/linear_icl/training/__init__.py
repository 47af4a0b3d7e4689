"""Gradient descent on sampled prompts beside the flow."""
