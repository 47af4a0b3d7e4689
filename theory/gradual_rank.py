r"""Gradual rank increase: the saddle path of any model with Hadamard weights, with times.

Boix-Adsera, Littwin, Abbe, Bengio, Susskind 2023 (2306.07042), for θ = u⊙v from
u, v = O(α); for a convex quadratic loss Pesme & Flammarion 2023 (2304.00488). Exponents
other than 1 at the start: generalised thresholds (2607.12332).

Write |s| = α^e·e^β at a reference time, one pair (e, β) for each factor s and d of each
weight. On a plateau of force g the factor of side σ = ±1 grows at rate σg − λ, so the
next to become O(1) is the one with the smallest e/(σg − λ), and

    T ← T + e/rate,   C ← C + (x_m − β)/rate,

where x_m is the tail of the orbit that connects the two saddles: log|s| ≃ x_m + rate·s
as s → −∞, with s = 0 at the level that defines the time. Every other factor gains
rate·ΔT in exponent, and in β rate·ΔC plus what it gains on the orbit beyond its
plateau velocities. The terms C are matched asymptotics of this project: at finite α the
transition is at T·Λ + C up to a power of α.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

from gflow.factored import Factored
from gflow.flow import Decay, Objective, build_flow, trained_leaves
from gflow.hadamard import Hadamard
from gflow.parameters import Constant
from gflow.trajectory import log_alpha_of

from .columns import ColumnPath
from .orbits import (
    Degenerate,
    Landscape,
    Orbit,
    Unbounded,
    connect,
    force_jacobian,
    loss_and_force,
    losses,
)
from .prediction import Coordinate, Prediction, Stage, Start, coordinate_label

SOURCE = "Boix-Adsera et al. 2023 (2306.07042)"
VALIDITY = (
    "α → 0 with the O(1) factors fixed; each winner unique (see margin), each saddle a strict "
    "minimum on its support (see curvature). At finite α times are exact up to a power of α."
)

#: A force this much below the largest initial one counts as zero.
FORCE_FLOOR = 1e-10
#: Candidates whose times agree to this relative accuracy are tied.
TIE = 1e-9
#: A weight of a continued run this far below the largest one has not switched yet.
_ON_ITS_WAY = 1e-3
#: log of the square root of the size at which a winner enters its orbit: |ψ| = e^{-50}/4.
_ENTRY = -25.0


def predict(
    model: PyTree,
    objective: Objective,
    *,
    log_alpha: float | None = None,
    decay: Decay = 0.0,
    rtol: float = 1e-11,
    max_stages: int = 1000,
) -> Prediction:
    r"""Saddles, their order and their times T_k and offsets C_k, for any objective.

    **Arguments:** `model`: every trained leaf a `gflow.Hadamard` (freeze others with
    `gflow.Frozen`). `objective`: differentiable, model ↦ scalar. `log_alpha`: for leaves
    that do not carry one. `decay`: constant λ, or {leaf: λ}. `rtol`: relative error of
    the weights along connecting orbits, and so about that of exp(rate·C); saddles and T
    are polished to rounding whatever it is.

    **Returns:** a `Prediction`; `.stages[k].tau` is T in units of log(1/α), `.at(la)`
    the times and curves at a finite α.

    **Raises:** ValueError for leaves of another kind, |u| = |v| exactly, Λ ≤ 0 or
    unknown, an accidental tie, an objective unbounded below, a degenerate saddle.

    **Regime:** α → 0, unique winners, strict minima on the support. Copies with equal
    gradient (heads while attention is uniform) switch together with predicted shares.

    ```python
    pred = theory.gradual_rank.predict(model, objective)
    print(pred); pred.at(-74.0).tau
    ```
    """
    leaves = trained_leaves(model)
    scale, conflict = log_alpha_of(model, log_alpha)
    kinds = {type(leaf) for leaf in leaves.values()}
    other = [n for n, leaf in leaves.items() if not isinstance(leaf, Hadamard | Factored)]
    if other:
        raise ValueError(
            f"The limit algorithm needs Hadamard or Factored leaves; {other} are trained in "
            "another form. Freeze them (gflow.Frozen), or build them as one of the two."
        )
    if len(kinds) > 1:
        raise ValueError(
            "The limit algorithm takes Hadamard leaves or Factored leaves, not both in one model. "
            "Freeze the one kind or the other (gflow.Frozen)."
        )
    if not scale < 0:
        raise ValueError(f"A prediction needs 0 < α < 1, but {conflict}")
    flow = build_flow(model, objective, decay=decay)
    if any(callable(rate) for rate in flow.decay):
        raise ValueError("The limit algorithm needs a constant decay; λ(t) was given.")
    if Factored in kinds:
        constant = [float(r.value) if isinstance(r, Constant) else 0.0 for r in flow.decay]
        rates = dict(zip(flow.names, constant, strict=True))
        return ColumnPath(flow, leaves, rates, scale, rtol).follow(max_stages)
    return _Path(flow, leaves, scale, rtol).follow(max_stages)


class _Path:
    """The state of the limit algorithm: exponents and log-sizes of every factor."""

    def __init__(self, flow, leaves, scale, rtol):
        self.rtol = rtol
        self.landscape = Landscape(flow)
        self.names, self.shapes = flow.names, [leaves[n].shape for n in flow.names]
        sizes = [int(np.prod(s)) for s in self.shapes]
        rates = [r.value if isinstance(r, Constant) else 0.0 for r in flow.decay]
        self.decay = np.repeat([float(r) for r in rates], sizes)
        self.side = np.array([1.0, -1.0])[:, None]  # rows: factor s, factor d
        self.exponent, self.size = _scales([leaves[n] for n in flow.names], scale)
        self.p = self.exponent.shape[1]
        self.log_alpha = scale
        self.elapsed = max(float(leaf.elapsed) for leaf in leaves.values())
        self.tau, self.offset = self.elapsed / -scale, 0.0
        self.alive = self._initial_support()
        self.theta = np.zeros(self.p)
        self.groups: list[list[int]] = []

    def _initial_support(self) -> np.ndarray:
        """Signed support of a non-zero start: 0, +1 or −1 for each weight."""
        if np.any(self.exponent < -1e-12):
            bad = int(np.argwhere(np.any(self.exponent < -1e-12, axis=0))[0, 0])
            raise ValueError(
                f"{_name(self, bad)} has a negative exponent: it grows as α → 0. Exponents "
                "are ≥ 0, with 0 for the large factor of an active weight."
            )
        active = np.abs(self.exponent) <= 1e-12
        if np.any(active.all(axis=0)):
            bad = int(np.argwhere(active.all(axis=0))[0, 0])
            raise ValueError(
                f"{_name(self, bad)} has exponents (0, 0), so u² − v² does not go to zero with "
                "α. An active start has exponents (0, 2), or (2, 0) for a negative weight."
            )
        return np.where(active[0], 1, np.where(active[1], -1, 0))

    def follow(self, max_stages: int) -> Prediction:
        initial = np.where(
            self.alive != 0, self.alive * 0.25 * np.exp(2.0 * self._living(self.size)), 0.0
        )
        # a start at rest has no force to compare with: that at zero weights sets the unit
        forces = [self._evaluate(theta)[1] for theta in (initial, np.zeros(self.p))]
        self.force_scale = float(np.max(np.abs(forces)))
        if not self.force_scale > 0:
            raise ValueError(
                "No weight feels a force at the start, so nothing ever escapes from it. In an "
                "attention model make sure that value–output weights see a gradient at zero."
            )
        if np.any(self.alive != 0):
            self._settle()
        self.loss, self.force = self._evaluate(self.theta)
        start = Start(self.tau, self._by_leaf(self.theta), self.loss, self._rank(self.theta))
        stages: list[Stage] = []
        orbits: list[Orbit] = []
        plateaus = [_Plateau(self.theta, self.exponent, self.size, self._rates())]
        ended = f"stopped at max_stages = {max_stages}"
        while len(stages) < max_stages:
            try:
                step = self._next_stage(len(stages) + 1)
            except Degenerate as error:
                ended = str(error)
                warnings.warn(f"The saddle path is predicted up to here: {error}", stacklevel=3)
                break
            if step is None:
                ended = "complete: no weight feels a force that makes it grow"
                break
            stages.append(step[0])
            orbits.append(step[1])
            plateaus.append(_Plateau(self.theta, self.exponent, self.size, self._rates()))
        return Prediction(
            start,
            stages,
            SOURCE,
            VALIDITY,
            ended,
            _Orbits(self.landscape, start, orbits, plateaus, self._by_leaf),
        )

    def _living(self, table: np.ndarray) -> np.ndarray:
        """Row of the active side, for every weight (row s for dormant ones)."""
        return np.where(self.alive < 0, table[1], table[0])

    def _evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        loss, force = loss_and_force(self.landscape, jnp.asarray(theta))
        return float(loss), np.asarray(force)

    def _settle(self) -> None:
        """From an active start to the saddle below it, before anything else escapes.

        In a model taken from a run, weights still far below this saddle are not part of
        it: they are on their way to the next and wait like dormant ones.
        """
        while True:
            x = np.where(self.alive != 0, self._living(self.size), 0.0)
            orbit = self._connect(self.alive != 0, x, "from the start")
            size = 0.25 * np.exp(2.0 * x)
            away = orbit.rest & (orbit.x[-1] > x)
            away &= size < _ON_ITS_WAY * np.max(np.abs(orbit.theta))
            if self.elapsed == 0.0 or not away.any():
                break
            row = np.where(self.alive < 0, 1, 0)[away]
            self.exponent[row, away] = self.size[row, away] / self.log_alpha
            self.size[row, away] = 0.0
            self.alive = np.where(away, 0, self.alive)
            if not self.alive.any():
                return
        self._carry(orbit, np.zeros_like(self.exponent), 0.0, 0.0, np.zeros(self.p))

    def _rates(self) -> np.ndarray:
        """Growth rate of both factors of every weight; 0 for those at rest."""
        force = np.where(np.abs(self.force) > FORCE_FLOOR * self.force_scale, self.force, 0.0)
        rates = self.side * force - self.decay
        resting = np.stack([self.alive > 0, self.alive < 0])
        return np.where(resting, 0.0, rates)

    def _next_stage(self, number: int) -> tuple[Stage, Orbit] | None:
        rates = self._rates()
        growing = rates > FORCE_FLOOR * self.force_scale
        growing &= (self.alive == 0)[None]
        if not growing.any():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(growing, self.exponent / rates, np.inf)
        best = float(np.min(wait))
        tied = np.argwhere(wait <= best * (1 + TIE) + 1e-300)
        side, group = np.where(tied[:, 0] == 0, 1, -1), tied[:, 1]
        if len(tied) > 1:
            self._check_copies(group, side, rates[tied[:, 0], tied[:, 1]])
        others = wait.copy()
        others[tied[:, 0], tied[:, 1]] = np.inf
        margin = float(np.min(others)) - best
        rival = None
        if math.isfinite(margin):
            rival = np.unravel_index(int(np.argmin(others)), others.shape)

        row = tied[0, 0]
        rate = float(rates[row, group[0]])
        log_share = self.size[tied[:, 0], group]  # squares of the factors: 2·log
        top = int(np.argmax(log_share))
        before_alive = self.alive.copy()
        self.alive = self.alive.copy()
        self.alive[group] = side
        x = np.where(before_alive != 0, 0.5 * _log4(self.theta), 0.0)
        x[group] = _ENTRY + log_share - log_share[top]
        before = np.where(before_alive != 0, 0.0, self.force)
        before[group] = rate
        orbit = self._connect(self.alive != 0, x, f"stage {number}")

        leader = int(group[top])
        level, crossing = self._level(orbit, leader)
        orbit = orbit.shifted(crossing)
        entry = float(orbit.x[0, leader]) - rate * float(orbit.s[0])
        delta_offset = (entry - log_share[top]) / rate
        if len(group) > 1:
            self.groups.append(sorted(int(i) for i in group))
        if rival is not None:
            rival = (
                _coordinate(self, int(rival[1])),
                float(self.exponent[rival] - rates[rival] * best),
                float(self.size[rival] + rates[rival] * delta_offset),
            )
        self._carry(orbit, rates, best, delta_offset, before)

        was, now = before_alive != 0, self.alive != 0
        share = np.exp(2.0 * (log_share - log_share[top]))
        share = share / share.sum()
        shares = {_coordinate(self, int(i)): w for i, w in zip(group, share, strict=True)}
        stage = Stage(
            tau=self.tau,
            offset=self.offset,
            activated=[_coordinate(self, int(i)) for i in np.flatnonzero(now & ~was)],
            deactivated=[_coordinate(self, int(i)) for i in np.flatnonzero(was & ~now)],
            value=self._by_leaf(self.theta),
            loss=self.loss,
            rank=self._rank(self.theta),
            margin=margin,
            level=level,
            curvature=self._curvature(),
            rate=rate,
            rival=rival,
            shares=shares if len(group) > 1 else {},
        )
        return stage, orbit

    def _connect(self, support: np.ndarray, x: np.ndarray, where: str) -> Orbit:
        try:
            return connect(
                self.landscape,
                support,
                np.where(self.alive < 0, -1.0, 1.0),
                np.where(support, self.decay, 0.0),
                x,
                self.force_scale,
                0.5 * self.rtol,
            )
        except (Degenerate, Unbounded) as error:
            raise type(error)(f"At {where}, {error}.") from None

    def _level(self, orbit: Orbit, leader: int) -> tuple[tuple[Any, float], float]:
        """Half the winner's plateau value; midway in the loss if the winner vanishes."""
        if orbit.rest[leader]:
            value = 0.5 * float(orbit.theta[leader])
            target = 0.5 * math.log(4.0 * abs(value))
            return (
                (_coordinate(self, leader), value),
                orbit.crossing(lambda x: float(x[leader]), target),
            )
        after = float(loss_and_force(self.landscape, jnp.asarray(orbit.theta))[0])
        middle = 0.5 * (self.loss + after)

        def height(x: np.ndarray) -> float:
            theta = orbit.fast.weights(jnp.asarray(x))
            return -float(loss_and_force(self.landscape, theta)[0])

        return ("loss", middle), orbit.crossing(height, -middle)

    def _carry(self, orbit, rates, delta_tau, delta_offset, before) -> None:
        """Exponents and log-sizes through the plateau and the orbit, then the new saddle."""
        gain = orbit.gain(before)
        living_row = np.where(self.alive < 0, 1, 0)
        own = np.zeros_like(self.size, dtype=bool)
        own[living_row, np.arange(self.p)] = self.alive != 0
        # on the support the orbit carries side·∫g − ∫λ, elsewhere ∫g
        force_gain = np.where(self.alive < 0, -gain, gain)
        self.exponent = self.exponent - rates * delta_tau
        self.size = self.size + rates * delta_offset + self.side * force_gain
        self.tau += delta_tau
        self.offset += delta_offset
        self.theta = orbit.theta
        self.alive = np.where(orbit.rest, self.alive, 0)
        resting = np.stack([self.alive > 0, self.alive < 0])
        self.exponent = np.where(own, 0.0, self.exponent)
        self.size = np.where(resting, 0.5 * _log4(self.theta), self.size)
        self.loss, self.force = self._evaluate(self.theta)

    def _check_copies(self, group: np.ndarray, side: np.ndarray, rates: np.ndarray) -> None:
        """Equal times are no accident between copies: one feature in several heads or layers.

        Copies grow at one rate, so their sizes keep the ratio the factors gave them until
        the orbit, which is followed from that ratio.
        """
        features = {_coordinate(self, int(i))[1][-1:] for i in group}
        copies = (
            np.all(side == side[0]) and np.ptp(rates) <= TIE * abs(rates[0]) and len(features) == 1
        )
        if not copies:
            names = ", ".join(_name(self, int(i)) for i in group)
            raise ValueError(
                f"An accidental tie: {names} would switch at the same τ without being copies "
                "(one feature in several heads or layers), and the limit α → 0 does not decide "
                "which comes first. Perturb the data, or give the leaves unequal exponents "
                "(Hadamard.from_scales)."
            )

    def _curvature(self) -> float:
        """Smallest eigenvalue of ∇²L on the support, exchange of copies taken out."""
        rest = np.flatnonzero(self.alive != 0)
        if rest.size == 0:
            return math.nan
        jacobian = np.asarray(force_jacobian(self.landscape, jnp.asarray(self.theta)))
        hessian = -jacobian[np.ix_(rest, rest)]
        hessian = 0.5 * (hessian + hessian.T)
        values, vectors = np.linalg.eigh(hessian)
        exchange = np.zeros_like(values)
        for group in self.groups:
            inside = np.isin(rest, group)
            part = vectors[inside] - vectors[inside].mean(axis=0) if inside.any() else 0.0
            exchange += np.sum(np.square(part), axis=0) if inside.any() else 0.0
        flat = (np.abs(values) < 1e-9 * np.max(np.abs(values))) & (exchange > 0.99)
        return float(np.min(values[~flat])) if np.any(~flat) else math.nan

    def _by_leaf(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        cuts = np.cumsum([int(np.prod(s)) for s in self.shapes])[:-1]
        parts = np.split(theta, cuts, axis=-1)
        return {
            n: part.reshape(*theta.shape[:-1], *s)
            for n, part, s in zip(self.names, parts, self.shapes, strict=True)
        }

    def _rank(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        return {n: np.asarray(np.sum(v != 0, axis=-1)) for n, v in self._by_leaf(theta).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _Plateau:
    """The saddle after a stage, and where every other factor stands at the stage's time."""

    theta: np.ndarray
    exponent: np.ndarray
    size: np.ndarray
    rates: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Orbits:
    """Curves at finite α from the connecting orbits and the plateaus between them."""

    landscape: Landscape
    start: Start
    orbits: list[Orbit]
    plateaus: list[_Plateau]
    by_leaf: Callable[[np.ndarray], dict[str, np.ndarray]]

    def composite(self, t: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, dict]:
        """Each orbit at its own time, added up, the saddles between them subtracted."""
        first = np.concatenate([np.ravel(v) for v in self.start.value.values()])
        theta = np.tile(first, (len(t), 1))
        loss = np.full(len(t), self.start.loss)
        before, loss_before = first, self.start.loss
        for orbit, time in zip(self.orbits, times, strict=True):
            psi = orbit.weights(t - time)
            theta = theta + psi - before
            loss = loss + losses(self.landscape, psi) - loss_before
            before = orbit.theta
            loss_before = float(loss_and_force(self.landscape, jnp.asarray(before))[0])
        return loss, self.by_leaf(theta)

    def log_weights(self, stage: int, scale: float, waited: ArrayLike) -> dict[str, np.ndarray]:
        """log|θ| at Λ = scale, `waited` flow time after stage `stage` (0: the start)."""
        here = self.plateaus[stage]
        waited = np.asarray(waited, float)[..., None, None]
        dormant = 2.0 * np.max(here.size - here.exponent * scale + here.rates * waited, axis=-2)
        with np.errstate(divide="ignore"):
            resting = np.log(np.abs(here.theta))
        return self.by_leaf(np.where(here.theta != 0, resting, dormant - math.log(4.0)))


def _scales(leaves: list[Hadamard], log_alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Exponents and log-factors, rows s and d, with respect to the model's α."""
    exponent, size = [[], []], [[], []]
    for leaf in leaves:
        own = float(leaf.log_alpha)
        for row, (e, a) in enumerate(
            [(leaf.exponent_s, leaf.log_factor_s), (leaf.exponent_d, leaf.log_factor_d)]
        ):
            e, a = np.asarray(e).ravel(), np.asarray(a).ravel()
            if math.isfinite(own):
                exponent[row].append(e * (own / log_alpha))
                size[row].append(a)
            else:
                exponent[row].append(e)
                size[row].append(a - e * log_alpha)
    return (
        np.stack([np.concatenate(rows) for rows in exponent]),
        np.stack([np.concatenate(rows) for rows in size]),
    )


def _log4(theta: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(4.0 * np.abs(theta))


def _coordinate(path: _Path, flat: int) -> Coordinate:
    for name, shape in zip(path.names, path.shapes, strict=True):
        size = int(np.prod(shape))
        if flat < size:
            return name, tuple(int(i) for i in np.unravel_index(flat, shape))
        flat -= size
    raise IndexError(flat)


def _name(path: _Path, flat: int) -> str:
    return coordinate_label(_coordinate(path, flat))
