"""Plateaus and transitions of a finished run, and what switched at each of them."""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import PyTree
from scipy import optimize, signal

from .crossings import Crossing, Index, Quantity, first_crossing
from .observables import is_matrix, log_modes, modes

#: A transition is a peak of the descent, the rate at which loss + (λ/2)‖factors‖² falls,
#: that stands this factor above the plateaus on both sides.
DIP = 30.0

#: Smallest share of the largest weight that counts on a plateau.
MATTERS = 1e-3

#: Descent below this share of its maximum is a plateau, whatever rounding does to it.
_FLOOR = 1e-14

#: Below this share a weight is nowhere off its rest by more than 10⁻¹³: the descent is its square.
_FLAT = 1e-26


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredStage:
    """A transition and the plateau after it.

    `t`, `tau`, `error`: when the largest newly active weight crosses half its plateau
    value (without one, or when it is a singular value: when the loss is midway), with its
    error bar in flow time. A mode (name, (…, k)) of a product of matrices is its k-th
    singular value.
    `step`: recorded step on the plateau after it.
    """

    t: float
    tau: float
    error: float
    activated: list[tuple[str, Index]]
    deactivated: list[tuple[str, Index]]
    value: dict[str, np.ndarray]
    loss: float
    rank: dict[str, np.ndarray]
    step: int
    model: PyTree = dataclasses.field(repr=False, default=None)


def plateau_steps(descent: np.ndarray) -> list[int]:
    """Recorded steps resting on a plateau: before, between and after the transitions.

    What the flow minimises falls at a rate that varies over hundreds of orders of magnitude; on its
    logarithm a transition is a peak and a plateau the valley between two.
    """
    height = np.log(np.maximum(descent, _FLOOR * np.max(descent)))
    padded = np.concatenate([[height.min() - 1e3], height, [height.min() - 1e3]])
    peaks = signal.find_peaks(padded, prominence=np.log(DIP))[0] - 1
    peaks = [int(p) for p in peaks if p < len(height) - 1]
    edges = [0, *peaks, len(height) - 1]
    steps = [0]
    for a, b in itertools.pairwise(edges[1:]):
        steps.append(a + int(np.argmin(descent[a : b + 1])))  # below the floor too
    return steps


def thinned(descent: np.ndarray) -> np.ndarray:
    """Half of the recorded steps: all where a plateau or a transition is, else every other."""
    valleys = plateau_steps(descent)
    peaks = [a + int(np.argmax(descent[a : b + 1])) for a, b in itertools.pairwise(valleys)]
    marked = np.add.outer([*valleys, *peaks, len(descent) - 1], [-1, 0, 1]).ravel()
    marked = marked[(marked >= 0) & (marked < len(descent))]
    return np.union1d(np.arange(0, len(descent), 2), marked)


@dataclasses.dataclass(frozen=True, eq=False)
class _Plateau:
    """Where a plateau is flattest: a recorded step, and time and record of the minimum."""

    step: int
    t: float
    record: dict[str, Any]


def _plateau(trajectory: Any, step: int) -> _Plateau:
    """The minimum of the descent next to a recorded step.

    At finite α a plateau slopes, and which recorded step lies lowest is an accident of the
    run; its value, and with it the level of the transition, must not be.
    """
    here = {name: {k: v[step] for k, v in leaf.items()} for name, leaf in trajectory.leaves.items()}
    recorded = _Plateau(
        step, float(trajectory.t[step]), {"loss": trajectory.loss[step], "leaves": here}
    )
    if trajectory.resolver is None or not 0 < step < len(trajectory.t) - 1:
        return recorded
    if trajectory.descent[step] < _FLAT * np.max(trajectory.descent):
        return recorded

    # on either side from one record, so that the minimum is one of a smooth function
    lowest = np.log(trajectory.descent[step]), recorded
    for base in (step - 1, step):
        start, width = float(trajectory.t[base]), float(trajectory.t[base + 1] - trajectory.t[base])
        leaves = {n: {k: v[base] for k, v in x.items()} for n, x in trajectory.leaves.items()}

        def record(share: float, leaves=leaves, start=start, width=width) -> dict[str, Any]:
            return trajectory.resolver(leaves, start, share * width)

        found: Any = optimize.minimize_scalar(
            lambda share, record=record: np.log(record(share)["descent"]),
            bounds=(0.0, 1.0),
            method="bounded",
            options={"xatol": 1e-9},
        )
        if found.fun < lowest[0]:
            share = float(found.x)
            lowest = found.fun, _Plateau(step, start + share * width, record(share))
    return lowest[1]


def find_stages(trajectory: Any) -> list[MeasuredStage]:
    """The stages of a run, in order of time."""
    steps = plateau_steps(trajectory.descent)
    stages = []
    plateaus = [_plateau(trajectory, step) for step in steps]
    for start, plateau in itertools.pairwise(plateaus):
        before, after, leaves = start.step, plateau.step, plateau.record["leaves"]
        on, off = [], []
        was_active, is_active = (
            active_weights(trajectory, before),
            active_weights(trajectory, after),
        )
        for name in trajectory.leaves:
            was, now = was_active[name], is_active[name]
            on += [(name, _index(i)) for i in np.argwhere(now & ~was)]
            off += [(name, _index(i)) for i in np.argwhere(was & ~now)]
        crossing = _time_of(trajectory, on, start, plateau)
        scale = -trajectory.log_alpha
        stages.append(
            MeasuredStage(
                t=crossing.t,
                tau=crossing.t / scale if scale > 0 else float("nan"),
                error=crossing.error,
                activated=on,
                deactivated=off,
                value={
                    n: np.asarray(plateau.record["leaves"][n]["value"]) for n in trajectory.leaves
                },
                loss=float(plateau.record["loss"]),
                rank={n: np.asarray(np.sum(active, axis=-1)) for n, active in is_active.items()},
                step=after,
                model=_model(trajectory, leaves, plateau.t),
            )
        )
    return stages


def _index(row: np.ndarray) -> Index:
    return tuple(int(i) for i in row)


def active_weights(trajectory: Any, step: int) -> dict[str, np.ndarray]:
    """Which weights, of a product of matrices which singular values, carry the plateau.

    At a recorded step. A weight is active when it has left the initial scale (|θ| > √α), is
    nearer to rest than to zero, |g|/max|g(0)| < |θ|/max|θ|, and matters, |θ| > 10⁻³ max|θ|.
    The last two tell a weight on its way to zero, which may stay above √α long after, from
    one that rests.
    """
    leaves = trajectory.leaves
    force_scale = max(np.max(np.abs(leaf["force"][0])) for leaf in leaves.values())
    largest = max(np.max(np.abs(leaf["value"][step])) for leaf in leaves.values())
    active = {}
    for name, leaf in leaves.items():
        first, here = ({k: v[i] for k, v in leaf.items()} for i in (0, step))
        start = 0.5 * float(np.max(log_modes(first)))
        threshold = 0.5 * trajectory.log_alpha if trajectory.log_alpha < 0 else start
        value, force = modes(here)
        rest = np.abs(force) * largest < np.abs(value) * force_scale
        matters = np.abs(value) > MATTERS * largest
        active[name] = (log_modes(here) > threshold) & rest & matters
    return active


def _time_of(trajectory: Any, activated: list, start: _Plateau, plateau: _Plateau) -> Crossing:
    before, after = start.step, plateau.step
    leaves = plateau.record["leaves"]
    values = {(n, i): float(modes(leaves[n])[0][i]) for n, i in activated}
    (name, index), value = max(values.items(), key=lambda kv: abs(kv[1]), default=(("", ()), 0.0))
    if name and not is_matrix(leaves[name]):
        quantity = Quantity(name, index, float(np.sign(value)))
        crossing = first_crossing(trajectory, quantity, 0.5 * abs(value), before, after + 1)
        if crossing is not None:
            return _widened(trajectory, quantity, crossing, after)
    quantity = Quantity(sign=-1.0)
    middle = -0.5 * (float(start.record["loss"]) + float(plateau.record["loss"]))
    crossing = first_crossing(trajectory, quantity, middle, before, after + 1)
    if crossing is not None:
        return _widened(trajectory, quantity, crossing, before, after)
    # a transition whose fall is lost in the rounding of the loss: its steepest step
    step = before + int(np.argmax(trajectory.descent[before : after + 1]))
    width = trajectory.t[min(step + 1, after)] - trajectory.t[max(step - 1, before)]
    return Crossing(float(trajectory.t[step]), float(width), step)


def _widened(trajectory: Any, quantity: Quantity, crossing: Crossing, *plateaus: int) -> Crossing:
    """The error bar with what the level, half of the plateaus' values, is uncertain by.

    The lowest point of a valley is known to the root of the rounding of its height, 10⁻⁸ of
    the steps beside it, and where two of these meet to what the solver's error moves it by.
    Without the flow it lies anywhere between the steps beside the lowest.
    """
    values = quantity.of({"loss": trajectory.loss, "leaves": trajectory.leaves})
    inside = [k for k in plateaus if 0 < k < len(values) - 1]
    share = 1.0 if trajectory.resolver is None else 1e-5
    slope = share * sum(abs(values[k + 1] - values[k - 1]) for k in inside)
    i = crossing.step
    speed = (values[i + 1] - values[i]) / (trajectory.t[i + 1] - trajectory.t[i])
    return dataclasses.replace(crossing, error=float(crossing.error + 0.5 * slope / speed))


def _model(trajectory: Any, leaves: dict[str, Any], t: float) -> PyTree:
    return None if trajectory.like is None else trajectory._model_at(leaves, None, t)
