"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Random starts of the layers, decades of a displacement, sizes of the point of decay."""

    seeds: int = 3
    decades: tuple[int, ...] = (2, 3, 4, 5, 6, 7)
    scales: tuple[float, ...] = (1.0, 0.1, 0.01)
    decays: tuple[float, ...] = (0.2, 0.35, 0.45, 0.48, 0.52, 0.55, 0.65, 0.8, 1.0)


FULL = Settings()
FAST = Settings(seeds=1, decades=(3, 4, 5), scales=(1.0, 0.1), decays=(0.35, 0.48, 0.55, 0.8))
