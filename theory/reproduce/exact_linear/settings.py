"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many random networks are drawn."""

    networks: int = 50


FULL = Settings()
FAST = Settings(networks=5)
