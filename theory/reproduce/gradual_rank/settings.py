"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes α = 10^−k of the two heads, and how much is run with each."""

    rtol: float = 1e-8
    head_exponents: tuple[float, ...] = (8, 16, 32, 64, 128)
    #: Those of which the convergence to the limit is shown.
    converging: tuple[float, ...] = (8, 16, 32, 64, 128)
    #: Stages of the head that are perturbed and restarted (None: all), and how often each.
    restarted: int | None = None
    samples: int = 2
    digits_exponents: tuple[float, ...] = (16, 32, 64)
    #: Of the 1 797 images; None: all.
    images: int | None = None


FULL = Settings()
FAST = Settings(
    rtol=1e-7,
    head_exponents=(8, 32, 64),
    converging=(32, 64),
    restarted=1,
    samples=1,
    digits_exponents=(32,),
    images=100,
)
