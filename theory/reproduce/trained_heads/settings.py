"""What both transformers are run with."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the model, how many seeds start from each scale, and steps of both descents."""

    d: int = 16
    hidden: int = 32
    layers: int = 2
    seeds: int = 5
    scales: tuple[float, ...] = (1.0, 0.1, 0.01)
    steps: int = 3000
