"""Spans and ranks under attention, a residual, and normalisation."""
