"""Softmax attention on a lookup, through transitions of its decay."""
