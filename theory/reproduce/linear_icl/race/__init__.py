"""The limit algorithm of saddles of order three and four, beside runs."""
