"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of both transformers, steps of Adam, seeds, inputs, and tokens that mergers leave.

    `seeds` of the whole networks and `others` of those with a part left out are trained, `draws`
    inputs are followed through each; `kept` tokens of 16 are left after the last layer.
    """

    d: int = 16
    layers: int = 6
    length: int = 24
    windows: int = 2048
    rate: float = 3e-3
    steps: int = 800
    seeds: int = 3
    others: int = 1
    draws: int = 32
    networks: int = 400
    kept: tuple[int, ...] = (11, 6, 2)


FULL = Settings()
FAST = Settings(
    layers=4, length=16, windows=512, steps=100, seeds=2, draws=8, networks=200, kept=(8,)
)
