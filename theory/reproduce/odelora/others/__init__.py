"""Other velocities of the same factors: sign flow and momentum."""
