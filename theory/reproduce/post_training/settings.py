"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the matrices whose vectors turn, changes of each, draws of null models, and steps.

    `training` is of the networks; tuning takes a fifth.
    """

    sizes: tuple[int, ...] = (8, 16, 32)
    changes: int = 3
    draws: int = 200
    training: int = 2000


FULL = Settings()
FAST = Settings(sizes=(8,), changes=2, draws=50, training=200)
