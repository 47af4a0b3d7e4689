"""The size of the start against the time of the escape: a power law and a logarithm."""
