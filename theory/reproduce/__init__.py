"""Experiments of the papers, each a short script, run by the `gflow` command line."""
