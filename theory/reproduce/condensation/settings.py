"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes, seeds and steps of the five parts."""

    #: Largest width 2^k of the Gaussian starts, and how many of each width.
    largest_width: int = 8
    starts: int = 60
    #: ε = 10^−k on the plateau.
    plateau_exponents: tuple[int, ...] = (4, 8, 16, 32, 64, 100)
    plateau_rtol: float = 1e-10
    tanh_width: int = 64
    anchor_seeds: int = 5
    anchor_steps: int = 1600
    #: Whether the runs without a verdict, of another scale, are made as well.
    anchor_other_scale: bool = True
    neurons: int = 40
    epsilons: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6)


FULL = Settings()
FAST = Settings(
    largest_width=6,
    starts=30,
    plateau_exponents=(4, 16, 32, 100),
    plateau_rtol=1e-8,
    tanh_width=16,
    anchor_seeds=2,
    anchor_steps=400,
    anchor_other_scale=False,
    neurons=14,
    epsilons=(1e-4, 1e-6),
)
