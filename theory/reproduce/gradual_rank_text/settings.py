"""What is run in full, and with `--fast`."""

import dataclasses

from ..trained_heads.settings import Sizes


@dataclasses.dataclass(frozen=True)
class Settings(Sizes):
    """How many pieces of text, and how long, the transformer of these sizes is trained on."""

    windows: int = 8
    length: int = 32


FULL = Settings()
FAST = Settings(
    windows=4, length=16, d=8, hidden=8, layers=1, seeds=2, scales=(1.0, 0.1), steps=2000
)
