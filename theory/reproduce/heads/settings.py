"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Exponents of the starts (α = 10^−k), seeds of the split, and sizes of the key–query start."""

    exponents: tuple[int, ...] = (1, 2, 3, 4, 6, 10, 30, 100)
    seeds: int = 3
    sizes: tuple[float, ...] = (1e-3, 1e-2, 1e-1)


FULL = Settings()
FAST = Settings(exponents=(2, 4, 100), seeds=1, sizes=(1e-2,))
