"""Two-layer networks condense: orientations and escape times for three activations."""
