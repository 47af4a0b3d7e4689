"""Losses with kinks: found in the program of the loss, located in time, or rounded off."""
