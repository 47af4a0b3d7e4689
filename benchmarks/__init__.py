"""Cost and correctness of gflow beside what else one would integrate a gradient flow with.

Run `python -m benchmarks --help` in a clone; this package is not installed.
"""
