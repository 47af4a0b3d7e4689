"""What every public call is told of time: where it starts, where it ends, what it records besides.

One set of rules for a single model (`members` = None) and for a batch of them, stacked.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from .._arguments import number, numbers
from .._time_unit import time_unit, unit_name
from ..parameters._base import Small, known_times, trained_leaves
from ..parameters._elapsed import agreed
from ..parameters._scaled import Scaled, units_of


@dataclasses.dataclass(frozen=True)
class Times:
    """Flow times, an entry a member; `end` is None for runs until rest.

    `scale` is log α of every member, and `why` says what is wrong where it is none below 0;
    `order` is that of the saddle they start near, which makes the unit of τ.
    """

    start: Float[np.ndarray, " members"]
    end: Float[np.ndarray, " members"] | None
    wanted: Float[np.ndarray, " times"]
    scale: Float[np.ndarray, " members"]
    why: str
    order: int

    def of(self, i: int, last: float) -> Float[np.ndarray, " times"]:
        """Of the times wanted those that member i, which came to `last`, has passed."""
        return self.wanted[(self.wanted >= self.start[i]) & (self.wanted <= last)]


def elapsed_time(model: PyTree, given: float | None = None) -> float:
    """The flow time that all leaves of a model stand at, or the one `given` as t0."""
    leaves = trained_leaves(model).values()
    return agreed(set().union(*(known_times(leaf) for leaf in leaves)), given)


def log_alpha_of(model: PyTree, given: float | None = None) -> tuple[float, str]:
    """log α of a model and, where it has none below 0, the sentence that says why."""
    if given is not None:
        value = number("log_alpha", given, "the natural logarithm of α")
        if not math.isfinite(value):
            raise ValueError(f"log_alpha = {given} must be finite: the natural logarithm of α.")
        return value, f"log_alpha = {value:g} was given, so α ≥ 1."
    leaves = {n: x for n, x in trained_leaves(model).items() if _carries(x)}
    scales = {n: float(_scale_of(x)) for n, x in leaves.items()}
    known = {n: x for n, x in scales.items() if math.isfinite(x)}
    values = set(known.values())
    if len(values) == 1 and len(known) == len(leaves):
        value = values.pop()
        return value, f"log_alpha = {value:g} on every leaf, so α ≥ 1."
    if not leaves:
        why = (
            "the model has no Hadamard or Factored leaf that carries log_alpha, and no Scaled one "
            "in units. Pass log_alpha=."
        )
    elif not known:
        moved = any(units_of(leaf) for leaf in leaves.values())
        what = "are units that a run has moved" if moved else "were built without log_alpha"
        why = f"leaves {list(leaves)} {what}. Pass log_alpha=."
    else:
        listed = ", ".join(f"{n}: {known[n]:g}" if n in known else f"{n}: unknown" for n in leaves)
        why = f"the leaves disagree on log_alpha ({listed}). Pass log_alpha=."
    return math.nan, why


def _carries(leaf: Any) -> bool:
    return isinstance(leaf, Small) or units_of(leaf) is not None


def _scale_of(leaf: Any) -> Any:
    """log α of a leaf; NaN where it does not know it, as units that a run has moved."""
    if isinstance(leaf, Small):
        return leaf.log_alpha
    moved = np.asarray(leaf.elapsed)
    return np.where(np.isnan(moved) | (moved == 0.0), np.asarray(leaf.log_scale), np.nan)


def prepare_times(
    model: PyTree, *, t0: Any, t1: Any, tau1: Any, save: Any, log_alpha: float | None,
    order: int = 2, members: int | None = None, single: PyTree = None,
) -> Times:  # fmt: skip
    """The times of a run, or of all members of a stacked `model` (copies of `single`, if given).

    **Raises:** ValueError for times that are no numbers, not finite, before the start, and for τ
    of a model without α.
    """
    start = _starts(t0, model, members, single)
    scale, why = _scales(model, log_alpha, members)
    end = _ends(t1, tau1, start, scale, why, order, members)
    return Times(start, end, _wanted(save, start, end), scale, why, order)


def _starts(t0: Any, model: PyTree, members: int | None, single: PyTree) -> np.ndarray:
    what = "the flow time that the model stands at"
    if members is None:
        start = None if t0 is None else number("t0", t0, what)
        if start is not None and not math.isfinite(start):
            raise ValueError(f"t0 = {t0}: {what} must be finite.")
        return np.array([elapsed_time(model, start)])
    if t0 is not None:
        given = numbers("t0", t0, "the flow times that the models stand at")
        if given.shape not in ((), (members,)) or not np.all(np.isfinite(given)):
            raise ValueError(
                f"t0 = {t0}: {what} is a finite number, one for all or one for each of the "
                f"{members} members."
            )
        return np.broadcast_to(given, (members,))
    if single is not None:
        return np.full(members, elapsed_time(single))
    leaves = [x for x in trained_leaves(model).values() if isinstance(x, Small | Scaled)]
    times = [np.broadcast_to(np.asarray(x.elapsed), (members,)) for x in leaves]
    return np.array(
        [agreed({float(t[i]) for t in times if not np.isnan(t[i])}, None) for i in range(members)]
    )


def _scales(model: PyTree, log_alpha: float | None, members: int | None) -> tuple[np.ndarray, str]:
    """log α of every member (NaN where its leaves agree on none), and why there is none below 0."""
    if members is None:
        scale, why = log_alpha_of(model, log_alpha)
        return np.array([scale]), why
    leaves = [x for x in trained_leaves(model).values() if _carries(x)]
    if log_alpha is not None:
        scale = np.full(members, number("log_alpha", log_alpha, "the natural logarithm of α"))
    elif leaves:
        known = [np.asarray(_scale_of(x)) for x in leaves]
        scale = np.where(np.all([x == known[0] for x in known], axis=0), known[0], math.nan)
    else:
        scale = np.full(members, math.nan)
    unknown = np.flatnonzero(~(scale < 0)).tolist()
    return scale, (f"members {unknown[:8]} have no common log_alpha < 0. Pass log_alpha= or t1=.")


def _ends(
    t1: Any, tau1: Any, start: np.ndarray, scale: np.ndarray, why: str, order: int,
    members: int | None,
) -> np.ndarray | None:  # fmt: skip
    if t1 is not None and tau1 is not None:
        raise ValueError(f"Give t1 = {t1} or tau1 = {tau1}, not both.")
    if t1 is None and tau1 is None:
        return None
    name, value = ("t1", t1) if tau1 is None else ("tau1", tau1)
    what = "the end of the run in " + ("flow time" if tau1 is None else unit_name(order))
    given = np.asarray(number(name, value, what)) if members is None else numbers(name, value, what)
    if given.shape not in ((), start.shape):
        raise ValueError(
            f"One end for all or one for each of the {len(start)} members is needed; got an "
            f"array of shape {given.shape}."
        )
    if tau1 is not None:
        if not np.all(scale < 0):
            raise ValueError(f"tau1 = {tau1} counts time in {unit_name(order)}, but {why}")
        given = given * np.array([time_unit(float(x), order) for x in scale]).reshape(
            () if members is None else -1
        )
    end = np.array(np.broadcast_to(given, start.shape))
    bad = np.flatnonzero(~(np.isfinite(end) & (end > start)))
    if bad.size:
        i = int(bad[0])
        who, stands = f"Member {i}", "stands"
        if members is None:
            who, stands = "The run", "the model stands"
        raise ValueError(
            f"{who} would end at t1 = {end[i]}, but {stands} at t = {start[i]}: the end must be "
            "finite and later. (A model from traj.final keeps the origin of its time; t0=0.0 "
            "sets it to zero.)"
        )
    return end


def _wanted(save: Any, start: np.ndarray, end: np.ndarray | None) -> np.ndarray:
    try:
        times = np.asarray([] if save is None else save, float).ravel()
    except (TypeError, ValueError):
        raise ValueError(f"save = {save!r} is no array of flow times t.") from None
    first, last = float(np.min(start)), np.inf if end is None else float(np.max(end))
    outside = ~((times >= first) & (times <= last) & np.isfinite(times))
    if outside.any():
        raise ValueError(
            f"save contains t = {times[outside][0]}, outside the run from t = {first} to "
            f"{'rest' if end is None else last}. (These are flow times t, not τ.)"
        )
    return times
