"""The laws between heads, and what ends them."""
