"""All ranks at once, from any start, whatever the conditioning."""
