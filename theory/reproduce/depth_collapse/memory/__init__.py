"""Scores that are handed on from layer to layer: three laws."""
