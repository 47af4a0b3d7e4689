"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of random starts, decades, and how many of them each is drawn from."""

    decades: tuple[int, ...] = (2, 3, 4, 5, 6)
    seeds: int = 3


FULL = Settings()
FAST = Settings(decades=(3, 4), seeds=1)
