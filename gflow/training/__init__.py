"""Discrete training in the coordinates of the flow."""
