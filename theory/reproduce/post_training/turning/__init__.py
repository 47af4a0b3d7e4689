"""A target that differs a little: vectors turn, left and right together."""
