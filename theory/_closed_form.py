"""What a closed form says of a run: a curve of flow time, or one number."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from gflow import Trajectory
from gflow.internal import error_bar

from ._arguments import Numbers

#: Two theories that differ by less of what is to be told apart are not worth telling apart.
RESOLVES = 0.02


class Reading(NamedTuple):
    """What a run says: `value`, the solver's error `bar`, both of one shape.

    `size`: of what the value is made of, which says what small is where it should vanish.
    """

    value: ArrayLike
    bar: ArrayLike
    size: ArrayLike | None = None


def from_weights(
    function: Callable[[dict[str, np.ndarray]], ArrayLike],
) -> Callable[[Trajectory], Reading]:
    """How to read from a run what it did not record: a function of its effective weights.

    `function` takes {leaf name: weights}, times along the leading axis, and returns an array
    with that axis. Its bar is how far the run and its companion of half steps differ in it.

    ```python
    product = theory.from_weights(lambda w: w["weights.1"] @ w["weights.0"])
    theory.Curve("W2 W1", value, read=product)
    ```
    """

    def read(run: Trajectory) -> Reading:
        main = np.asarray(function(_weights(run.leaves)), float)
        if run.refined is None:
            return Reading(main, np.full(main.shape, math.nan))
        other = np.asarray(function(_weights(run.refined["leaves"])), float)
        return Reading(main, error_bar(run.times, main, other))

    return read


def _weights(leaves) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf["value"]) for name, leaf in leaves.items()}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curve:
    r"""An observable of a run as a function of flow time t.

    **Arguments:**
    - `observable`: its name: "loss", a leaf (its effective weight, any shape), or another of
      `traj.observables`. With `read` the name is free.
    - `value`: t ↦ array, t of shape (times,), to (times, *shape of the observable).
    - `tolerance`: a number, or t ↦ array of shape (times,) or that of the value: how far a run
      in the regime may be from it beside the solver's error; `derivation` says in words why.
    - `source`, `validity`: the paper, and when it holds; `regime`: flow times between which.
    - `read`: run ↦ `Reading`, for what runs do not record (see `from_weights`).
    - `resolves`: with tolerance and twice the bar above this share of what the curve moves by
      (of its size, where it is `constant`), a run cannot tell.
    - `constant`: it claims that nothing moves. A curve that does not move in a run is
      otherwise left open.
    - `label`: the name in tables, the observable's unless two curves share it.

    A NaN says that nothing is predicted there, and leaves the curve undecided.

    **Raises:** ValueError for a tolerance without derivation, and `resolves` above a quarter,
    where a factor 2 would be let pass.

    ```python
    decay = theory.Curve("weight", lambda t: start * np.exp(-0.1 * t), source="L = 0, λ = 0.1")
    print(theory.compare(traj, theory.Prediction.of(decay)))
    ```
    """

    observable: str
    value: Callable[[Float[np.ndarray, " times"]], Numbers]
    tolerance: float | int | Callable[[Float[np.ndarray, " times"]], Numbers] = 0.0
    derivation: str = ""
    source: str = ""
    validity: str = ""
    regime: tuple[float | int, float | int] = (0.0, math.inf)
    read: Callable[[Trajectory], Reading | tuple[ArrayLike, ArrayLike]] | None = None
    resolves: float | int = RESOLVES
    constant: bool = False
    label: str = ""
    unit: str = ""

    def __post_init__(self):
        named = f"Curve({self.observable!r})"
        object.__setattr__(self, "label", self.label or self.observable)
        _check(named, self.tolerance, self.derivation, self.resolves)
        if not self.regime[0] < self.regime[1]:
            raise ValueError(
                f"{named}: regime = {self.regime}: give the flow times (first, last) between which "
                "it holds."
            )

    def __repr__(self) -> str:
        return f"Curve({self.label}; {said(self)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Number:
    r"""One number read off a run: an exponent, a rank, a threshold, a time.

    **Arguments:**
    - `label`: its name in tables. `predicted`: the number, NaN where it is not known.
    - `read`: run ↦ (measured, bar), both numbers; NaN measured where the run does not show it.
    - `tolerance`: how far a run in the regime may be from it beside `bar`, and its `derivation`
      in words. `source`, `validity`: the paper, and when it holds. `unit` for tables.
    - `resolves`: with tolerance and twice the bar above this share of `size` (by default
      |predicted|), a run cannot tell. What is predicted to vanish needs a `size`.

    **Raises:** ValueError for a tolerance without derivation, a size that is not positive.

    ```python
    theory.Number("rank at the end", 3, lambda run: (count(run.final), 0.0), source="eq. 7")
    ```
    """

    label: str
    predicted: float | int
    read: Callable[[Trajectory], Reading | tuple[float | int, float | int]]
    tolerance: float | int = 0.0
    derivation: str = ""
    source: str = ""
    validity: str = ""
    unit: str = ""
    resolves: float | int = RESOLVES
    size: float | int | None = None

    def __post_init__(self):
        _check(f"Number({self.label!r})", self.tolerance, self.derivation, self.resolves)
        if self.size is not None and not self.size > 0:
            raise ValueError(f"Number({self.label!r}): size = {self.size} must be positive.")

    def __repr__(self) -> str:
        value = f"{self.predicted:.8g} {self.unit}".strip()
        return f"Number({self.label} = {value}; {said(self)})"


def said(part: Curve | Number) -> str:
    """In words: how exact it is, where it holds, and whose it is."""
    exact = not callable(part.tolerance) and part.tolerance == 0.0
    words = "exact" if exact else f"to within {part.derivation}"
    return "; ".join(x for x in (words, part.validity, part.source) if x)


def _check(named: str, tolerance, derivation: str, resolves: float) -> None:
    if not callable(tolerance) and not (tolerance >= 0.0 and math.isfinite(tolerance)):
        raise ValueError(f"{named}: tolerance = {tolerance}: a finite number, 0 if exact.")
    if (callable(tolerance) or tolerance > 0.0) and not derivation:
        raise ValueError(
            f"{named} has a tolerance, and no word about where it comes from: pass derivation=, "
            'such as "the next order, ε² of the curve".'
        )
    if not 0.0 < resolves <= 0.25:
        raise ValueError(
            f"{named}: resolves = {resolves}: a share of what it moves by, above 0 and at most ¼. "
            "What is known to more than that does not tell a factor 2."
        )


def reading(run: Trajectory, curve: Curve) -> Reading:
    """What the run says of a curve: arrays with times first, and a size for every time.

    **Raises:** ValueError for an observable the run lacks, and arrays that do not fit together.
    """
    if curve.read is not None:
        found = curve.read(run)
        one = found if isinstance(found, Reading) else Reading(*found)
    elif curve.observable == "loss":
        one = Reading(run.loss, run.error.get("loss", math.nan))
    elif curve.observable in run.observables:
        bar = run.error.get(curve.observable, math.nan)
        one = Reading(run.observables[curve.observable], bar)
    else:
        raise ValueError(
            f"The curve is of {curve.observable!r}, which this run did not record. It has "
            f"{', '.join(map(repr, ('loss', *run.observables)))}. Pass observables= to the run, or "
            "give the curve read=theory.from_weights(function)."
        )
    size = 0.0 if one.size is None else one.size
    value, bar, size = (np.asarray(x, float) for x in (one.value, one.bar, size))
    bar = np.full(value.shape, bar) if bar.ndim == 0 else bar
    size = np.full(run.t.shape, size) if size.ndim == 0 else size
    if not (value.shape[:1] == run.t.shape == size.shape and bar.shape == value.shape):
        raise ValueError(
            f"Of the curve {curve.label!r} a value of shape {value.shape} was read, a bar of "
            f"{bar.shape} and a size of {size.shape}, from a run of {run.t.size} recorded times. "
            "Times come first, the bar has the shape of the value, the size is one number a time."
        )
    return Reading(value, bar, size)
