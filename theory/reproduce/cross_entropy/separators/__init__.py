"""Linear maps on data that can be separated, and on data that cannot."""
