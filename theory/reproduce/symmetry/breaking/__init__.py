"""Two equal heads that move apart."""
