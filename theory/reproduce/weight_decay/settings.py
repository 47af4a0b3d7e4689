"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Seeds, steps and decays λ of the transformers."""

    recall_seeds: int = 3
    recall_steps: int = 2400
    recall_examples: int = 1024
    adamw_decays: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 2.0)
    l2_decays: tuple[float, ...] = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 5e-3)
    text_seeds: int = 5
    text_steps: int = 2000
    #: Beside λ = 0.
    text_decays: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)


FULL = Settings()
FAST = Settings(
    recall_seeds=1,
    recall_steps=800,
    recall_examples=512,
    adamw_decays=(0.0, 0.3, 2.0),
    l2_decays=(0.0, 1e-4, 3e-3),
    text_seeds=1,
    text_steps=500,
    text_decays=(0.3, 3.0),
)
