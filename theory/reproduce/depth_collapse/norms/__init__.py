"""Batch normalisation keeps tokens apart; what layer normalisation does to ranks."""
