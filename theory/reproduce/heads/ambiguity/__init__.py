"""What a known sum of heads says of each of them."""
