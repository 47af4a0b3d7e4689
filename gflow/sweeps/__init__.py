"""Sweeps: products of settings and seeds, run in chunks, stored so that a kill loses little."""
