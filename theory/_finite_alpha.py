"""A saddle path at finite α: when its transitions come, which plateaus exist, its curves."""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import ArrayLike

from gflow.internal import Displayed, Summary, Table, power_of_ten, rank_label, time_unit, unit_name

from ._stage import Stage, Start


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

    def offsets(self, stages: list[Stage], log_alpha: float) -> np.ndarray:
        """C of every stage, with all of it that is known at this α."""
        ...

    def log_weights(self, stage: int, scale: float, waited: ArrayLike) -> dict[str, np.ndarray]:
        """log|θ| of every weight, `waited` flow time after the first `stage` stages."""
        ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FiniteAlpha(Displayed):
    """A prediction at one α: `t` = T·Λ + C, `tau` = T + C/Λ, Λ = `scale`, `exists`, curves.

    `exists[k]`: the plateau after stage k lasts (t_{k+1} > t_k); where it does not, the
    next transition has overtaken this one. The remainder of `t` is a power of α.
    """

    start: Start
    stages: list[Stage]
    log_alpha: float
    orbits: Orbits | None = dataclasses.field(default=None, repr=False)
    source: str = ""
    order: int = 2

    @property
    def scale(self) -> float:
        """The unit of τ: Λ = log(1/α), of order D > 2 α^{−(D−2)}."""
        return time_unit(self.log_alpha, self.order)

    @functools.cached_property
    def offset(self) -> np.ndarray:
        """C, with what of it is known to depend on α (of order three and more)."""
        if self.orbits is None:
            return np.array([s.offset for s in self.stages])
        return self.orbits.offsets(self.stages, self.log_alpha)

    @property
    def t(self) -> np.ndarray:
        return self.scale * np.array([s.tau for s in self.stages]) + self.offset

    @property
    def tau(self) -> np.ndarray:
        return np.array([s.tau for s in self.stages]) + self.offset / self.scale

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
        starts = np.concatenate([[self.start.tau * self.scale], self.t])
        stage = np.searchsorted(self.t, times, side="right")
        rows: dict[str, list[np.ndarray]] = {n: [] for n in self.start.value}
        for k, t in zip(stage, times, strict=True):
            logs = orbits.log_weights(int(k), self.scale, t - starts[k])
            for name, log_abs in logs.items():
                rows[name].append(log_abs)
        shape = np.shape(tau)
        return {n: np.reshape(x, (*shape, *np.shape(x[0]))) for n, x in rows.items()}

    def _orbits(self) -> Orbits:
        if self.orbits is None:
            raise ValueError(
                f"{self.source} gives saddles and limit times only; curves at "
                "finite α come with theory.gradual_rank.predict."
            )
        return self.orbits

    def _summary(self) -> Summary:
        about = f"Prediction at α = {power_of_ten(self.log_alpha)}"
        facts = [("unit of τ", f"{unit_name(self.order)} = {self.scale:.8g}")]
        if self.source:
            facts.insert(0, ("source", self.source))
        columns = zip(self.stages, self.t, self.tau, self.exists, strict=True)
        rows = [
            [f"{tau:.8f}", f"{t:.8g}", f"{stage.loss:.6g}", rank_label(stage.rank),
             "yes" if exists else "no, overtaken", stage.label]
            for stage, t, tau, exists in columns
        ]  # fmt: skip
        head = ["τ", "flow time t", "loss after", "rank after", "plateau exists", "switches"]
        return Summary(about, facts, [Table(head, rows)])

    def _composite(self, tau: ArrayLike):
        tau = np.asarray(tau, float)
        loss, values = self._orbits().composite(tau.ravel() * self.scale, self.t)
        return loss.reshape(tau.shape), {
            n: v.reshape(*tau.shape, *v.shape[1:]) for n, v in values.items()
        }
