"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many of the rank jumps are followed."""

    stages: int = 8


FULL = Settings()
FAST = Settings(stages=4)
