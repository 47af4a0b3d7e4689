"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes α = 10^−k of the head, and random starts of the best fit of a rank."""

    exponents: tuple[float, ...] = (15, 30, 60, 100, 1000)
    fits: int = 8


FULL = Settings()
FAST = Settings(exponents=(15, 100, 1000), fits=3)
