"""A target that is a multiple of the weight: values scale, and nothing turns."""
