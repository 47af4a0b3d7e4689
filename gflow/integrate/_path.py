"""The steps of an escape: made round by round, kept in part, and found again."""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..coordinates._record import LeafRecord
from ..parameters._base import is_parameter, leaf_name
from ..results._crossings import bracketed_root
from ._clock import Clocked
from ._march import TERM, Pace, Steps, halved, march

#: State and frame.
Point = tuple[Array, PyTree[Array]]
#: Attempts of one round.
ATTEMPTS = 32
#: Numbers that the states kept in memory may take.
ROOM = 2**25
#: A step is so many for the time it takes: times fall by a large factor within one.
PARTS = 8


#: Numbers at a point: "t", "loss" and, of leaf x, "x.log_norm".
Row = dict[str, Float[Array, "..."]]


class Attempts(eqx.Module):
    """The attempts of a round, and the row of each in the main run and its companion."""

    steps: Steps
    companion: Point
    rows: tuple[Row, Row]


def _row(field: Clocked, point: Point) -> Row:
    here, state = field.at(*point), point[0]
    norms = {f"{name}.log_norm": x for name, x in here.log_norms(state).items()}
    return {"t": state[-1], "loss": here.loss()} | norms


@eqx.filter_jit
def first_row(field: Clocked) -> tuple[Row, dict[str, Float[Array, ""]]]:
    """The row at the start, and the largest force there on every leaf that sets the clock."""
    _, forces = field.flow.forces(field.weights())
    largest = {name: jnp.max(jnp.abs(forces[name])) for name in field.polar}
    return _row(field, (field.start(), field.frame())), largest


@eqx.filter_jit
def advance(
    field: Clocked,
    point: Point,
    companion: Point,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: tuple[Array, Array],
    span: Float[Array, ""],
    pace: Pace,
) -> Attempts:
    """Up to `ATTEMPTS` steps in the clock of `field` towards `span`, and all of them halved."""

    def build(point):
        return field.at(*point)

    def row(point):
        return _row(field, point)

    zero = jnp.zeros_like(span)
    steps = march(build, point, solver, tolerance, zero, span, pace, attempts=ATTEMPTS)
    *halves, _ = halved(
        build, companion, solver, tolerance, zero, steps.t, steps.kept, steps.choice
    )
    halves = tuple(halves)
    rows = jax.lax.map(row, (steps.state, steps.frame)), jax.lax.map(row, halves)
    return Attempts(steps, jax.tree.map(lambda x: x[-1], halves), rows)


@eqx.filter_jit
def one_step(
    field: Clocked, point: Point, solver: diffrax.AbstractAdaptiveSolver, h: Float[Array, ""]
) -> tuple[Point, Row]:
    """The point after one step of length `h` in the clock, and its row."""
    point = _stepped(field, point, solver, h)
    return point, _row(field, point)


@eqx.filter_jit
def lapse(
    field: Clocked, point: Point, solver: diffrax.AbstractAdaptiveSolver, h: Float[Array, ""]
) -> Float[Array, ""]:
    """The flow time that the next `h` in the clock take, with all its digits."""
    state, frame = point

    def part(_, point):
        return _stepped(field, point, solver, h / PARTS)

    return jax.lax.fori_loop(0, PARTS, part, (state.at[-1].set(0.0), frame))[0][-1]


def _stepped(field, point, solver, h) -> Point:
    here, zero = field.at(*point), jnp.zeros_like(h)
    args = (here, zero)
    inner = solver.init(TERM, zero, h, point[0], args)
    state = solver.step(TERM, zero, h, point[0], args, inner, jnp.array(False))[0]
    frame, state, _ = here.recentred(state)
    return state, frame


@eqx.filter_jit
def _leaf_records(field: Clocked, point: Point) -> dict[str, LeafRecord]:
    flow = field.at(*point).flow
    parts = zip(flow.names, flow.coordinates, flow.split(point[0][:-1]), strict=True)
    return {name: LeafRecord(c.record(part), c.chart) for name, c, part in parts}


@eqx.filter_jit
def weights_at(field: Clocked, point: Point) -> dict[str, Array]:
    """The effective weights."""
    return field.at(*point).weights()


def log_largest(row: dict[str, Any]) -> float:
    """The logarithm of the largest norm."""
    return max(float(x) for name, x in row.items() if name.endswith(".log_norm"))


@dataclasses.dataclass
class Path:
    """Where an escape has been: r at every step, and points at some of them.

    All points are kept while they are few; otherwise every second, fourth, … one, and the
    steps between are made again.
    """

    field: Clocked
    solver: diffrax.AbstractAdaptiveSolver
    like: PyTree
    r: list[float]
    points: dict[int, Point]
    stride: int = 1

    def append(self, r: float, point: Point) -> None:
        """The next step."""
        self.r.append(r)
        i = len(self.r) - 1
        if i % self.stride == 0:
            self.points[i] = point
        if len(self.points) * point[0].size > ROOM:
            self.stride *= 2
            self.points = {k: p for k, p in self.points.items() if k % self.stride == 0}

    def point(self, i: int) -> Point:
        """State and frame at step i."""
        base = max(k for k in self.points if k <= i)
        point = self.points[base]
        for k in range(base, i):
            point, _ = one_step(
                self.field, point, self.solver, self._number(self.r[k + 1] - self.r[k])
            )
        return point

    def crossing(self, i: int, log_level: float) -> tuple[float, Point, dict[str, float]]:
        """Where in the step after i the largest leaf comes to the level: r, point, row."""
        start, width = self.point(i), self.r[i + 1] - self.r[i]

        def ends(h: float):
            return one_step(self.field, start, self.solver, self._number(h))

        def gap(h: float) -> float:
            return log_largest(ends(h)[1]) - log_level

        # at the ends of a step the sign may be that of rounding
        h = 0.0 if gap(0.0) >= 0.0 else width
        if h and gap(width) > 0.0:
            h = bracketed_root(gap, width)
        point, row = ends(h)
        return self.r[i] + h, point, {name: float(x) for name, x in row.items()}

    def lapse(self, i: int, h: float) -> float:
        """The time that `h` in the clock take from step i."""
        return float(lapse(self.field, self.point(i), self.solver, self._number(h)))

    def cut(self, i: int, r: float, point: Point) -> None:
        """The path ends with step i, which leads to `point` at `r`."""
        self.r[i:] = [r]
        self.points = {k: p for k, p in self.points.items() if k < i} | {i: point}

    def _number(self, x: float) -> Array:
        return jnp.asarray(x, self.field.state.dtype)

    def weight(self, i: int, name: str) -> np.ndarray:
        """The effective weight of a leaf at step i."""
        return np.asarray(weights_at(self.field, self.point(i))[name])

    def model(self, point: Point) -> PyTree:
        """The model at a point: plain weights of norm one with their log-norm, time zero."""
        records = _leaf_records(self.field, point)

        def change(path, node):
            record = records.get(leaf_name(path))
            if record is None:
                return node
            return node.at_record(record, 0.0) if is_parameter(node) else record["value"]

        return jax.tree_util.tree_map_with_path(change, self.like, is_leaf=is_parameter)
