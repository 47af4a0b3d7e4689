"""Merged and separate heads through their drops, and heads of higher rank."""
