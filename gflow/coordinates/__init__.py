"""The charts in which weights are integrated, each with the geometry that keeps it accurate."""
