"""What happens between two recorded steps: roots and minima, of many steps at once.

A step is re-solved at a few Chebyshev points, in one compiled call for all steps that are asked
about, and what is sought is read off the polynomial through them. It is then sought again in the
interval that the polynomial is uncertain about, until that is rounding: every evaluation is of the
flow itself, by the run's own solver from the record before, and only these are dear.
"""

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

#: A function of shares of a step, (steps, points), a row a step.
Function = Callable[[np.ndarray], np.ndarray]

#: Points in the first round and in those that follow; where a minimum is sought.
_ROOT, _ROOT_AGAIN = 8, 5
_LOWEST, _LOWEST_AGAIN = 7, 10
#: Rounds at most, of which each halves what is left even where a polynomial is no help.
_ROUNDS = 60
#: What a share of a step is known to, and a value, in roundings.
_FINEST, _ROUNDINGS = 1e-15, 8.0
#: Steps of Newton's method on a polynomial.
_NEWTON = 8
#: A slope that is none.
_FLAT = 1e-300
#: A polynomial is trusted to so many of its last two coefficients.
_TRUST = 8.0


def roots(
    function: Function, left: np.ndarray, right: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where each row rises through zero between 0 and 1, and what that may be off by.

    `left` < 0 ≤ `right` are its values there, `size` that of the numbers whose difference is zero.
    NaN where the function is.
    """
    rows, noise = np.arange(len(left)), _ROUNDINGS * np.finfo(float).eps * size
    x = np.stack([np.zeros(len(left)), np.ones(len(left))], axis=1)
    y = np.stack([left, right], axis=1).astype(float)
    # in the first round the ends are known
    inner = np.broadcast_to(_nodes(_ROOT)[1:-1], (len(left), _ROOT - 2))
    root, doubt = np.full(len(left), np.nan), np.full(len(left), np.nan)
    left_open = np.ones(len(left), bool)
    for number in range(_ROUNDS):
        values = function(inner)
        bracket, of_bracket = x, y
        x = np.concatenate([x[:, :1], inner, x[:, 1:]], axis=1)
        y = np.concatenate([y[:, :1], values, y[:, 1:]], axis=1)
        through = (x, y) if number == 0 else (inner, values)
        # the first neighbours that it rises through zero between
        i = np.argmax((y[:, :-1] < 0.0) & (y[:, 1:] >= 0.0), axis=1)
        low, high = x[rows, i], x[rows, i + 1]
        found, off, slope = _root(*through, low, high)
        outside = (low < through[0][:, 0]) | (high > through[0][:, -1])
        useless = outside | ~np.isfinite(found) | ~(off < 0.5 * (high - low))
        found = np.where(useless, 0.5 * (low + high), found)
        off = np.where(useless, 0.5 * (high - low), np.maximum(off, _FINEST))
        lost = np.isnan(y).any(axis=1)
        found, off = np.where(lost, np.nan, found), np.where(lost, np.nan, off)
        root, doubt = np.where(left_open, found, root), np.where(left_open, off, doubt)
        fine = np.where(useless, _FINEST, np.maximum(_FINEST, noise / np.maximum(slope, _FLAT)))
        left_open = left_open & ~lost & (off > 2.0 * fine) & (high - low > 4.0 * _FINEST)
        if not left_open.any():
            break
        x, y = np.stack([low, high], axis=1), np.stack([y[rows, i], y[rows, i + 1]], axis=1)
        # rows that are known stay where they are
        x, y = (np.where(left_open[:, None], *two) for two in ((x, bracket), (y, of_bracket)))
        edges = np.maximum(low, found - off), np.minimum(high, found + off)
        again = edges[0][:, None] + (edges[1] - edges[0])[:, None] * _nodes(_ROOT_AGAIN)
        keep = inner[:, :1] + 0.0 * again
        inner = np.where(left_open[:, None], again, keep)
    return root, doubt


def _root(
    x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The root of the polynomial through each row in [low, high], its doubt, the slope there."""
    with np.errstate(all="ignore"):
        half = 0.5 * (x[:, -1] - x[:, 0])
        coefficients = _coefficients(y)
        slopes = chebyshev.chebder(coefficients, axis=1)
        ends = (low - x[:, 0]) / half - 1.0, (high - x[:, 0]) / half - 1.0
        z = 0.5 * (ends[0] + ends[1])
        for _ in range(_NEWTON):
            value, slope = _at(z, coefficients, slopes)
            z = np.clip(z - value / slope, *ends)
        value, slope = map(np.abs, _at(z, coefficients, slopes))
        last = np.sum(np.abs(coefficients[:, -2:]), axis=1)
        off = (_TRUST * last + value) / slope
        return x[:, 0] + (z + 1.0) * half, half * off, slope / half


def minima(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    left: np.ndarray,
    right: np.ndarray,
    of: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """In which rows of each group a positive function may be least, and where between 0 and 1.

    `function(rows, x)`: its values in these rows at points (rows, points). `left`, `right`: at 0
    and 1; `of`: the number of the group that each row is of. By the logarithm.
    """
    rows = np.arange(len(left))
    low, high = np.zeros(len(rows)), np.ones(len(rows))
    ends = np.array(left, float), np.array(right, float)
    x, y = _sampled(function, rows, low, high, ends, _LOWEST)
    best = np.min(y, axis=1)
    # two rows that are lowest where they meet both go on: the minimum is on either side of there
    least = np.full(np.max(of) + 1, np.inf)
    np.minimum.at(least, of, best)
    rows = rows[best <= least[of]]
    low, high, ends = _around(x[rows], y[rows])
    x, y = _sampled(function, rows, low, high, ends, _LOWEST_AGAIN)
    lowest = x[np.arange(len(x)), np.argmin(y, axis=1)]
    low, high, _ = _around(x, y)
    width = x[:, -1] - x[:, 0]
    with np.errstate(all="ignore"):
        slopes = chebyshev.chebder(_coefficients(np.log(y)), axis=1)
        bends = chebyshev.chebder(slopes, axis=1)
        z, *edges = (2.0 * (a - x[:, 0]) / width - 1.0 for a in (lowest, low, high))
        for _ in range(_NEWTON):
            slope, bend = _at(z, slopes, bends)
            z = np.clip(z - slope / np.abs(bend), *edges)
    found = x[:, 0] + 0.5 * (z + 1.0) * width
    return rows, np.where(np.isfinite(found), found, lowest)


def _sampled(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rows: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Points and values of each row from `low` to `high`, where they are known."""
    x = low[:, None] + (high - low)[:, None] * _nodes(count)
    return x, np.concatenate([ends[0][:, None], function(rows, x[:, 1:-1]), ends[1][:, None]], 1)


def _around(
    x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The points beside the lowest of each row, and the values there."""
    rows, i = np.arange(len(x)), np.argmin(y, axis=1)
    before, after = np.maximum(i - 1, 0), np.minimum(i + 1, x.shape[1] - 1)
    return x[rows, before], x[rows, after], (y[rows, before], y[rows, after])


def _nodes(count: int) -> np.ndarray:
    """Chebyshev points of [0, 1], both ends among them."""
    return 0.5 - 0.5 * np.cos(np.pi * np.arange(count) / (count - 1))


def _coefficients(values: np.ndarray) -> np.ndarray:
    """Of the polynomials in Chebyshev's basis through the values at `_nodes`, row by row."""
    degree = values.shape[1] - 1
    basis = chebyshev.chebvander(2.0 * _nodes(degree + 1) - 1.0, degree)
    return np.linalg.solve(basis, values.T).T


def _at(z: np.ndarray, *coefficients: np.ndarray) -> list[np.ndarray]:
    """Polynomials of each row at its own point, the first of which has the highest degree."""
    basis = chebyshev.chebvander(z, coefficients[0].shape[1] - 1)
    return [np.sum(basis[:, : c.shape[1]] * c, axis=1) for c in coefficients]
