"""From a vector field to a finished run: steps, rounds, stops, and the choice of a method."""
