"""The second stage: keys and queries on the plateau, from ε = 1e-4 to 1e-100."""
