"""Decay that depends on time: where λ(t) lives, found before a run, so that no step skips it.

An adaptive step knows a rate only at its stages, and on a plateau a step is longer than any
pulse. λ(t) is a known function: it is integrated on its own, and between the `edges` found
here it is as smooth as a polynomial of degree 14, which the error estimate of a step sees.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Float
from scipy.special import roots_jacobi

Rate = Callable[[Any], Any]

#: Panels of equal length that λ(t) is looked at in, whatever it is.
PANELS = 4096

#: Points evaluated in one call: one shape, so that no operation is compiled twice.
_CHUNK = 2**14

#: Eight Gauss–Radau points of a panel and their weights, on [0, 1]. They do not lie
#: symmetrically: a symmetric rule is exact, by accident, for a jump in the middle.
_INNER, _AT_INNER = roots_jacobi(7, 0.0, 1.0)[:2]
_NODES = np.concatenate([[0.0], 0.5 * (1.0 + _INNER)])
_WEIGHTS = np.concatenate([[1.0 / 64.0], 0.5 * _AT_INNER / (1.0 + _INNER)])

#: Constants of a program beyond which they are taken for data, not for times.
_FEW = 64


class _Values:
    """λ at arrays of times, checked to be one finite number ≥ 0 at each."""

    def __init__(self, rate: Rate, name: str):
        self.rate, self.name = rate, name

    def __call__(self, times: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        flat = times.ravel()
        parts = [self._chunk(flat[i : i + _CHUNK]) for i in range(0, len(flat), _CHUNK)]
        values = np.concatenate(parts) if parts else flat
        bad = ~((values >= 0.0) & np.isfinite(values))
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"decay of {self.name!r} is {values[i]} at t = {flat[i]:.6g}: the rate λ(t) of "
                "(λ/2)‖factors‖² must be finite and ≥ 0 for the whole run."
            )
        return values.reshape(times.shape)

    def _chunk(self, times: np.ndarray) -> np.ndarray:
        padded = np.concatenate([times, np.full(_CHUNK - len(times), times[0])])
        values = np.asarray(jax.vmap(self.rate)(jnp.asarray(padded)))
        if values.shape != (_CHUNK,):
            raise ValueError(
                f"decay of {self.name!r} returned an array of shape {values.shape[1:]} at one "
                "time: λ(t) is one number. For a rate a leaf pass {leaf name: λ(t)}."
            )
        return values[: len(times)].astype(float)

    def integral(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """∫λ over every panel [a, b], by eight points."""
        width = b - a
        return width * (self(a[:, None] + width[:, None] * _NODES) @ _WEIGHTS)


def edges(
    rate: Rate, name: str, start: float, end: float, tolerance: float
) -> Float[np.ndarray, " edges"]:
    """Times in (start, end) between which ∫λ(t)dt is known to `tolerance` by eight points.

    Panels are halved where the sum over the halves differs, and joined where it does not
    matter: a constant has no edge, a jump two next to it. Besides `PANELS` of equal length λ(t)
    is looked at ever more closely around the two ends and around every constant in its
    program, which is where a pulse or a window of any width stands.

    **Raises:** ValueError for a λ(t) that is negative, not finite or no single number.
    """
    values = _Values(rate, name)
    grid = _first_grid(rate, start, end)
    values(grid)
    a, b = grid[:-1], grid[1:]
    whole = values.integral(a, b)
    least = 16.0 * np.spacing(max(abs(start), abs(end)))
    done: list[tuple[np.ndarray, ...]] = []
    while len(a):
        middle = a + 0.5 * (b - a)
        left, right = values.integral(a, middle), values.integral(middle, b)
        split = (np.abs(left + right - whole) > tolerance) & (b - a > least)
        done.append((a[~split], b[~split], (left + right)[~split]))
        a, b, whole = (
            np.concatenate([first[split], second[split]])
            for first, second in ((a, middle), (middle, b), (left, right))
        )
    a, b, whole = (np.concatenate(x) for x in zip(*done, strict=True))
    order = np.argsort(a)
    return _joined(values, a[order], b[order], whole[order], tolerance)[0][1:]


def _joined(values: _Values, a, b, whole, tolerance):
    """Neighbouring panels made one wherever eight points still tell their integral."""
    idle, first = 0, 0
    while idle < 2:
        pairs = np.arange(first, len(a) - 1, 2)
        sums = whole[pairs] + whole[pairs + 1]
        good = np.abs(values.integral(a[pairs], b[pairs + 1]) - sums) <= tolerance
        kept, gone = pairs[good], pairs[good] + 1
        b, whole = b.copy(), whole.copy()
        b[kept], whole[kept] = b[gone], sums[good]
        a, b, whole = (np.delete(x, gone) for x in (a, b, whole))
        idle, first = (idle + 1 if not good.any() else 0), 1 - first
    return a, b, whole


def _first_grid(rate: Rate, start: float, end: float) -> np.ndarray:
    span = end - start
    near = span * 2.0 ** -np.arange(1.0, 53.0)
    times = [np.linspace(start, end, PANELS + 1)]
    for c in {start, end, *_constants(rate, start, end)}:
        times += [c - near, np.array([c]), c + near]
    grid = np.unique(np.concatenate(times))
    return grid[(grid >= start) & (grid <= end)]


def _constants(rate: Rate, start: float, end: float) -> list[float]:
    """Numbers in the program of λ(t) that are times of the run."""
    closed = jax.make_jaxpr(rate)(jnp.asarray(start, float))
    found = [np.ravel(x) for x in _numbers(closed) if np.size(x) <= _FEW]
    numbers = np.unique(np.abs(np.concatenate([*found, np.zeros(0)]).astype(float)))
    inside = numbers[(numbers > start) & (numbers < end)]
    return inside[:_FEW].tolist()


def _numbers(closed: core.ClosedJaxpr) -> Iterator[Any]:
    yield from (x for x in closed.consts if _is_number(x))
    for equation in closed.jaxpr.eqns:
        yield from (v.val for v in equation.invars if isinstance(v, core.Literal))
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if isinstance(value, core.ClosedJaxpr):
                yield from _numbers(value)
            elif isinstance(value, core.Jaxpr):
                yield from _numbers(core.ClosedJaxpr(value, ()))


def _is_program(x: Any) -> bool:
    return isinstance(x, core.ClosedJaxpr | core.Jaxpr)


def _is_number(x: Any) -> bool:
    return np.issubdtype(getattr(x, "dtype", np.dtype(object)), np.number)
