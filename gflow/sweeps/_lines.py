"""Straight lines through what was measured along one dimension, with intervals."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

#: Values of x that differ by less than this share of the largest are one.
_ONE = 1e-9


class Line(NamedTuple):
    """y = slope·x + intercept of every row, what is known of both, and the largest residual."""

    slope: Float[np.ndarray, " rows"]
    intercept: Float[np.ndarray, " rows"]
    slope_error: Float[np.ndarray, " rows"]
    intercept_error: Float[np.ndarray, " rows"]
    misfit: Float[np.ndarray, " rows"]


def lines(
    x: Float[np.ndarray, "rows points"],
    y: Float[np.ndarray, "rows points"],
    error: Float[np.ndarray, "rows points"],
    confidence: float,
) -> Line:
    """Least squares, row by row, over the points where x and y are finite.

    Errors are half widths: Student's for scatter about the line, with two degrees of freedom
    less than points, and on top of it what `error` of every y, all with the worst signs, can do.
    Two points fix a line of unknown error; fewer fix none (NaN).
    """
    there = np.isfinite(x) & np.isfinite(y)
    count = there.sum(1)
    x0, y0 = (np.where(there, a, 0.0) for a in (x, y))
    some = np.maximum(count, 1)[:, None]
    centre = x0.sum(1, keepdims=True) / some
    middle = y0.sum(1, keepdims=True) / some
    away = np.where(there, x - centre, 0.0)
    spread = np.sum(away**2, axis=1)
    fixed = (count >= 2) & (spread > (_ONE * np.max(np.abs(x0), axis=1, initial=0.0)) ** 2)
    weight = away / np.where(fixed, spread, 1.0)[:, None]
    slope = np.sum(weight * (y0 - middle), axis=1)
    intercept = middle[:, 0] - slope * centre[:, 0]
    residual = np.where(there, y0 - middle - slope[:, None] * away, 0.0)
    free = count - 2
    variance = np.sum(residual**2, axis=1) / np.where(free > 0, free, np.nan)
    student = stdtrit(np.maximum(free, 1), 0.5 + 0.5 * confidence)
    per_intercept = np.where(there, 1.0 / some, 0.0) - weight * centre
    worst = np.where(there, error, 0.0)

    def half_width(by: np.ndarray) -> np.ndarray:
        scatter = student * np.sqrt(variance * np.sum(by**2, axis=1))
        return np.where(fixed, scatter + np.sum(np.abs(by) * worst, axis=1), np.nan)

    misfit = np.max(np.abs(residual), axis=1, initial=0.0)
    slope, intercept, misfit = (np.where(fixed, a, np.nan) for a in (slope, intercept, misfit))
    return Line(slope, intercept, half_width(weight), half_width(per_intercept), misfit)
