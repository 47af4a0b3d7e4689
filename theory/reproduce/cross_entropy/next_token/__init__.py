"""A decoder trained in two stages: flow, gradient descent, normalised gradient descent."""
