"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many rank jumps are followed, and from which α = 10^−exponent."""

    stages: int = 3
    exponents: tuple[int, ...] = (100, 4000)


FULL = Settings()
FAST = Settings(stages=1, exponents=(100,))
