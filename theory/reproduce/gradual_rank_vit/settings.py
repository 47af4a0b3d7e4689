"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the model and its data, and how many seeds start from each scale."""

    examples: int = 100
    d: int = 16
    hidden: int = 32
    layers: int = 2
    seeds: int = 5
    scales: tuple[float, ...] = (1.0, 0.1, 0.01)
    steps: int = 3000


FULL = Settings()
FAST = Settings(examples=40, d=8, hidden=8, layers=1, seeds=2, scales=(1.0, 0.1), steps=2000)
