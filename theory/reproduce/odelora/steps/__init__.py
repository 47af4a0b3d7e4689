"""Euler steps on the factors, and how short they have to be."""
