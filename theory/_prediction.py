"""What a prediction is: saddles in order, their times in the limit and at finite α."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import ArrayLike

from gflow.internal import (
    Coordinate,
    Fingerprint,
    switch_label,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """The saddle a prediction starts from: `tau`, effective weights, loss, ranks."""

    tau: float
    value: Any
    loss: float
    rank: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    r"""One transition and the saddle after it.

    The transition happens at flow time t_k = T_k·Λ + C_k + (a power of α), Λ = log(1/α).

    - `tau`: T_k. `offset`: C_k, for crossing `level`; NaN where it is not predicted.
    - `activated`, `deactivated`: (leaf name, index) of the weights that switch.
    - `value`: effective weights at the saddle after it; `loss`, `rank` there.
    - `margin`: by how much, in τ, the next candidate would have come later.
    - `level`: (observable, value) whose first crossing defines the time: "loss", or
      (leaf name, index) and the signed weight.
    - `curvature`: smallest eigenvalue of the Hessian of L restricted to the support.
    - `rate`: the winner's growth rate |g| on the plateau before.
    - `rival`: (leaf name, index) of the next candidate, and (e, b): at the transition its
      factor has size e^{b − eΛ}.
    - `exponent`: the smallest power of α in the remainder of t_k, where a prediction without
      connecting orbits knows it.
    - `shares`: for exchangeable copies that switch together, each one's share.
    """

    tau: float
    offset: float
    activated: list[Coordinate]
    deactivated: list[Coordinate]
    value: Any
    loss: float
    rank: Any
    margin: float
    level: tuple[Any, float] | None = None
    curvature: float = math.nan
    rate: float = math.nan
    rival: tuple[Coordinate, float, float] | None = None
    shares: dict[Coordinate, float] = dataclasses.field(default_factory=dict)
    exponent: float = math.nan

    @property
    def label(self) -> str:
        """What switches, as `+kq[head 0, 2] −vo[head 0, 1]`."""
        return switch_label(self.activated, self.deactivated)


@runtime_checkable
class Orbits(Protocol):
    """The connecting orbits behind a prediction, one a stage."""

    @property
    def orbits(self) -> list[Any]: ...

    def composite(
        self, t: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Loss and weights at flow times `t` when stage k happens at `times[k]`."""
        ...

    def log_weights(self, stage: int, scale: float, waited: ArrayLike) -> dict[str, np.ndarray]:
        """log|θ| of every weight, `waited` flow time after the first `stage` stages."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """Saddles visited as α → 0, and what they become at finite α.

    `start`, `stages`: the saddle path. `at(log_alpha)`: finite-α times and curves.
    `source`: the paper; `validity`: the regime in which it holds; `ended`: why there are
    no further stages. `accuracy`: error of rate·(TΛ + C), the rounding of the prediction
    itself. `fingerprint`: what it was made from, None where that is not known.
    """

    start: Start
    stages: list[Stage]
    source: str
    validity: str
    ended: str
    orbits: "Orbits | None" = dataclasses.field(default=None, repr=False)
    origin: Callable[[], Fingerprint] | None = dataclasses.field(default=None, repr=False)
    accuracy: float = 1e-8

    @property
    def fingerprint(self) -> Fingerprint | None:
        return None if self.origin is None else self.origin()

    def at(self, log_alpha: float) -> "FiniteAlpha":
        """Times, surviving plateaus and curves at α = e^log_alpha."""
        log_alpha = float(log_alpha)
        if not (math.isfinite(log_alpha) and log_alpha < 0):
            raise ValueError(
                f"log_alpha = {log_alpha}: a finite-α prediction needs 0 < α < 1, that is a "
                "negative, finite natural logarithm."
            )
        return FiniteAlpha(self, log_alpha)

    def plot(self, ax=None):
        """Staircase of the limit loss against τ."""
        from . import plot

        return plot.staircase(self, ax=ax)

    def __str__(self) -> str:
        rows = [f"{'T':>12} {'C':>12} {'loss after':>12} {'margin':>9}  switches"]
        for s in self.stages:
            rows.append(f"{s.tau:12.8f} {s.offset:12.6f} {s.loss:12.6g} {s.margin:9.3g}  {s.label}")
        return "\n".join(rows)


@dataclasses.dataclass(frozen=True, eq=False)
class FiniteAlpha:
    """A prediction at one α: `t` = T·Λ + C, `tau` = T + C/Λ, `exists`, curves.

    `exists[k]`: the plateau after stage k lasts (t_{k+1} > t_k); where it does not, the
    next transition has overtaken this one. The remainder of `t` is a power of α.
    """

    prediction: Prediction
    log_alpha: float

    @property
    def scale(self) -> float:
        return -self.log_alpha

    @property
    def t(self) -> np.ndarray:
        return np.array([s.tau * self.scale + s.offset for s in self.prediction.stages])

    @property
    def tau(self) -> np.ndarray:
        return np.array([s.tau + s.offset / self.scale for s in self.prediction.stages])

    @property
    def exists(self) -> np.ndarray:
        # a time that is not predicted (NaN) overtakes nothing
        return np.append(~(np.diff(self.t) <= 0), True) if len(self.t) else np.zeros(0, bool)

    @property
    def merged(self) -> list[list[int]]:
        """Stages grouped into transitions: a group of several is one visible jump."""
        groups: list[list[int]] = []
        for k in range(len(self.t)):
            if groups and not self.exists[k - 1]:
                groups[-1].append(k)
            else:
                groups.append([k])
        return groups

    def loss(self, tau: ArrayLike) -> np.ndarray:
        """Composite loss curve: connecting orbits placed at the predicted times."""
        return self._composite(tau)[0]

    def value(self, tau: ArrayLike) -> dict[str, np.ndarray]:
        """Composite effective weights by leaf name, with leading axes of `tau`."""
        return self._composite(tau)[1]

    def above_sqrt_alpha(self, tau: ArrayLike) -> dict[str, np.ndarray]:
        """How many weights (of a matrix: singular values) are above √α, as a simulation counts.

        With leading axes of `tau`. A weight passes √α before its stage, half-way up from the
        size α² it starts at; the rank of a plateau is `Stage.rank`.
        """
        logs = self._log_weights(tau)
        return {n: np.sum(x > 0.5 * self.log_alpha, axis=-1) for n, x in logs.items()}

    def log_singular(self, leaf: str, tau: ArrayLike) -> np.ndarray:
        """Logarithms of the singular values of a factored leaf, heads one after the other."""
        logs = self._log_weights(tau)[leaf]
        return logs.reshape(*np.shape(tau), -1)

    def _log_weights(self, tau: ArrayLike) -> dict[str, np.ndarray]:
        """log|θ|, or the logarithms of singular values, with leading axes of `tau`."""
        orbits = self._orbits()
        times = np.asarray(tau, float).ravel() * self.scale
        starts = np.concatenate([[self.prediction.start.tau * self.scale], self.t])
        stage = np.searchsorted(self.t, times, side="right")
        rows: dict[str, list[np.ndarray]] = {n: [] for n in self.prediction.start.value}
        for k, t in zip(stage, times, strict=True):
            logs = orbits.log_weights(int(k), self.scale, t - starts[k])
            for name, log_abs in logs.items():
                rows[name].append(log_abs)
        shape = np.shape(tau)
        return {n: np.reshape(x, (*shape, *np.shape(x[0]))) for n, x in rows.items()}

    def _orbits(self) -> Orbits:
        if self.prediction.orbits is None:
            raise ValueError(
                f"{self.prediction.source} gives saddles and limit times only; curves at "
                "finite α come with theory.gradual_rank.predict."
            )
        return self.prediction.orbits

    def _composite(self, tau: ArrayLike):
        tau = np.asarray(tau, float)
        loss, values = self._orbits().composite(tau.ravel() * self.scale, self.t)
        return loss.reshape(tau.shape), {
            n: v.reshape(*tau.shape, *v.shape[1:]) for n, v in values.items()
        }
