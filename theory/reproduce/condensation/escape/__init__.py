"""The first stage: escape from the saddle, with bounds, times and rates."""
