"""Attention alone, attention with residuals, and the gradients of queries and keys."""
