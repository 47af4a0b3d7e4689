"""The whole tanh transformer from ε = 1e-8 through condensation, plateau and rank collapse."""
