"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of equiangular starts, data sets, seeds and steps.

    `published`: whether co-occurrence is run at the published size, 57 344 weights, or at m = 16.
    """

    sizes: tuple[float, ...] = (5e-2, 1e-8, 1e-30, 1e-100, 1e-200)
    separators: int = 5
    published: bool = True
    seeds: int = 5
    steps: int = 20_000


FULL = Settings()
FAST = Settings(sizes=(5e-2, 1e-200), separators=2, published=False, seeds=2, steps=2000)
