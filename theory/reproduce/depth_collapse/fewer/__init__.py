"""Fewer tokens, and a boost of what tells them apart."""
