"""What is kept of a run and read off it: records, crossings, stages, observables, files."""
