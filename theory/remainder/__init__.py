"""What finite α is allowed, from the prediction itself: remainders of times and plateaus."""

from ._remainder import (
    Remainder as Remainder,
    remainder as remainder,
)
