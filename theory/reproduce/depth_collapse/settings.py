"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draws of random networks, widths, kinds of attention, and (tokens, draws) of logits."""

    draws: int = 600
    widths: tuple[int, ...] = (64, 144, 324)
    gap_draws: int = 12
    kinds: tuple[str, ...] = ("softmax", "unnormalised")
    logits: tuple[tuple[int, int], ...] = (
        (100, 20_000), (1000, 20_000), (10_000, 10_000), (100_000, 2000)
    )  # fmt: skip


FULL = Settings()
FAST = Settings(
    draws=400, widths=(36, 144), gap_draws=6, kinds=("softmax",),
    logits=((100, 20_000), (1000, 10_000), (20_000, 2500)),
)  # fmt: skip
