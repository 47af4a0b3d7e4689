"""A transition and the saddles around it, with the level that defines its time."""

import dataclasses
import math
from typing import Literal, NamedTuple

import numpy as np

from gflow.internal import Coordinate, Displayed, Summary, rank_label, switch_label

#: Effective weights by leaf name; of a single vector, that vector.
Weights = dict[str, np.ndarray] | np.ndarray
#: Ranks by leaf name (heads as an array); of a single vector, its number of entries that are on.
Ranks = dict[str, np.ndarray] | int


class Level(NamedTuple):
    """What defines the time of a stage: the first crossing of `value` by `observable`.

    `observable`: "loss", or (leaf name, index), with the signed weight as `value`.
    """

    observable: Coordinate | Literal["loss"]
    value: float

    @property
    def coordinate(self) -> Coordinate | None:
        """The weight that crosses; None where it is the loss."""
        return None if self.observable == "loss" else self.observable


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Start(Displayed):
    """The saddle a prediction starts from: `tau`, effective weights, loss, ranks."""

    tau: float
    value: Weights
    loss: float
    rank: Ranks

    def __repr__(self) -> str:
        return f"Start(τ = {self.tau:.8g}; {_saddle(self)})"

    __str__ = __repr__

    def _summary(self) -> Summary:
        return Summary(f"Start at τ = {self.tau:.8g}", _facts(self))


#: The start of a prediction without stages: it says nothing of any weight, nor of the loss.
NOWHERE = Start(0.0, {}, math.nan, {})


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Stage(Displayed):
    r"""One transition and the saddle after it.

    The transition happens at flow time t_k = T_k·Λ + C_k + (a power of α), Λ = log(1/α); at
    saddles of order D > 2 Λ is α^{−(D−2)} here and below.

    - `tau`: T_k. `offset`: C_k, for crossing `level`; NaN where it is not predicted.
    - `activated`, `deactivated`: (leaf name, index) of the weights that switch.
    - `value`: effective weights at the saddle after it; `loss`, `rank` there.
    - `margin`: by how much, in τ, the next candidate would have come later.
    - `level`: (observable, value) whose first crossing defines the time (see `Level`).
    - `curvature`: smallest eigenvalue of the Hessian of L restricted to the support.
    - `rate`: the winner's growth rate |g| on the plateau before.
    - `rival`: (leaf name, index) of the next candidate, and (e, b): at the transition its
      factor has size e^{b − eΛ}.
    - `exponent`: the smallest power of α in the remainder of t_k, where a prediction whose
      orbits do not give the remainder itself knows it.
    - `shares`: for exchangeable copies that switch together, each one's share.
    """

    tau: float
    offset: float
    activated: list[Coordinate]
    deactivated: list[Coordinate]
    value: Weights
    loss: float
    rank: Ranks
    margin: float
    level: Level | None = None
    curvature: float = math.nan
    rate: float = math.nan
    rival: tuple[Coordinate, float, float] | None = None
    shares: dict[Coordinate, float] = dataclasses.field(default_factory=dict)
    exponent: float = math.nan

    @property
    def label(self) -> str:
        """What switches, as `+kq[head 0, 2] −vo[head 0, 1]`."""
        return switch_label(self.activated, self.deactivated)

    def __repr__(self) -> str:
        """One line: stages come in lists."""
        times = f"T = {self.tau:.8g}, C = {self.offset:.6g}"
        return f"Stage({self.label}: {times}; {_saddle(self)}; margin {self.margin:.3g})"

    __str__ = __repr__

    def _summary(self) -> Summary:
        own = [("T", f"{self.tau:.10g}"), ("C", f"{self.offset:.8g}")]
        more = [("margin", f"{self.margin:.4g}"), ("curvature", f"{self.curvature:.4g}")]
        return Summary(f"Stage {self.label}", [*own, *_facts(self), *more])


def _facts(saddle: Start | Stage) -> list[tuple[str, str]]:
    return [("loss", f"{saddle.loss:.6g}"), ("rank", rank_label(saddle.rank))]


def _saddle(saddle: Start | Stage) -> str:
    return ", ".join(f"{name} {value}" for name, value in _facts(saddle))


def by_leaf(value: Weights | Ranks) -> dict[str, np.ndarray]:
    """Weights or ranks by leaf name; those of a single vector are called "weight"."""
    whole = value if isinstance(value, dict) else {"weight": value}
    return {name: np.asarray(x) for name, x in whole.items()}
