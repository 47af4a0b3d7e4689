"""What is run in full, and with `--fast`."""

import dataclasses

from ..trained_heads.settings import Sizes


@dataclasses.dataclass(frozen=True)
class Settings(Sizes):
    """How many digits the transformer of these sizes is trained on."""

    examples: int = 100


FULL = Settings()
FAST = Settings(examples=40, d=8, hidden=8, layers=1, seeds=2, scales=(1.0, 0.1), steps=2000)
