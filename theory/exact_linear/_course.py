"""Curves of a product of two factors and of its squared loss, from its closed form."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from .._closed_form import Curve
from .._factor_pairs import FactorPair
from .._quadratic import Quadratic

Times = Float[np.ndarray, " times"]
#: Rounding of the closed forms, relative to the target.
ROUNDING = 1e-12
_WORDS = "rounding, and how far inputs and start are from those of the closed form"


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """A Bᵀ at the times of ½‖A Bᵀ − D‖², and how far the start is from that of a closed form.

    `deviation`: relative to the squares of the factors.
    """

    product: Callable[[Times], Float[np.ndarray, "times m n"]]
    deviation: float
    source: str
    validity: str


def on_clock(
    course: Course, problem: Quadratic, began: float
) -> Callable[[Times], Float[np.ndarray, "times m n"]]:
    """A Bᵀ at flow times of the problem, which stands at `began`."""
    return lambda t: course.product(problem.curvature * (t - began))


def loss_of(problem: Quadratic, product: Float[np.ndarray, "*t m n"]) -> Float[np.ndarray, "*t"]:
    squares = np.sum((product - problem.target) ** 2, axis=(-2, -1))
    return np.asarray(problem.floor + 0.5 * problem.curvature * squares)


def multiplied(
    a: Float[np.ndarray, "*t m r"], b: Float[np.ndarray, "*t n r"]
) -> Float[np.ndarray, "*t m n"]:
    return a @ b.swapaxes(-1, -2)


def curves(
    pair: FactorPair, problem: Quadratic, course: Course, began: float, last: float = math.inf
) -> list[Curve]:
    """The product, by the name of its leaf or as "W2 W1", and "loss", between two flow times.

    **Tolerance:** rounding; deviations grow no faster than 1 + 2c‖D‖t until a mode is learned.
    """
    c, product = problem.curvature, on_clock(course, problem, began)
    scale = float(np.max(np.abs(problem.target)))
    slack, growth = problem.deviation + course.deviation, 2.0 * np.linalg.norm(problem.target, 2)

    def loss(t: Times) -> Times:
        return loss_of(problem, product(t))

    def off(t: Times) -> Times:
        return scale * (ROUNDING + slack * (1.0 + growth * c * (t - began)))

    def loss_off(t: Times) -> Times:
        apart = math.sqrt(problem.target.size) * off(t)  # in the Frobenius norm
        reach = np.sqrt(2.0 * c * np.maximum(loss(t) - problem.floor, 0.0))
        rounding = 1e-14 * (abs(problem.floor) + c * float(np.sum(problem.target**2)))
        return 0.5 * c * apart**2 + reach * apart + rounding

    about: Any = {"source": course.source, "validity": course.validity, "regime": (began, last)}
    single = len(pair.leaves) == 1
    read = None if single else pair.read(multiplied)
    name = pair.name if single else "W2 W1"
    return [
        Curve(name, product, off, _WORDS, read=read, **about),
        Curve("loss", loss, loss_off, _WORDS, **about),
    ]


def unbalanced(pair: FactorPair) -> float:
    """‖G − λI‖ over ‖A‖² + ‖B‖²."""
    g = pair.left.T @ pair.left - pair.right.T @ pair.right
    size = float(np.sum(pair.left**2) + np.sum(pair.right**2))
    apart = float(np.linalg.norm(g - np.trace(g) / len(g) * np.eye(len(g))))
    return apart / size if size else 0.0
