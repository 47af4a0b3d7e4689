"""Tokens of the trained vision transformer merged on their way."""
