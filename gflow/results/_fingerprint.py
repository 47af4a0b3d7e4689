"""What a run or a prediction was made from, small enough to carry and to compare.

Two problems are one when their weights start from the same O(1) factors, their loss and forces
agree at a few fixed weights, they decay alike, and move along the same velocity. α is not part of
it: runs of one problem at several α have one fingerprint.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..flow._flow import Flow
from ..kinks._treatments import AsWritten
from ..parameters._base import Constant, Parameter, Small, is_parameter, leaf_name

#: Largest array kept number by number; of a larger one its norm and two projections are.
_WHOLE = 4096
#: Sizes of the weights at which loss and forces are looked at.
_PROBES = (0.0, 0.3, 1.0)
#: Flow times at which a decay that depends on time is looked at.
_TIMES = (0.0, 1.0, 7.0, 31.0, 211.0, 1009.0)

Table = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The start, the problem and the decay, as numbers.

    - `factors`: "leaf: what" ↦ α-free numbers of the start (of a Hadamard leaf log|A| and
      exponents, of a Factored one its columns), plain and frozen arrays included.
    - `data`: "loss" and "force on leaf" ↦ numbers at fixed probe weights.
    - `decay`: leaf ↦ λ at fixed times.
    - `velocity`: nothing of a gradient flow; of another its name ↦ numbers at the start.
    - `elapsed`: flow time at which the factors were read, 0 for a start.

    A part that is not known is None and is compared with nothing, and so is a leaf that the two
    hold in another form.
    """

    factors: Table | None
    data: Table | None
    decay: Table | None
    velocity: Table | None = None
    elapsed: float = 0.0
    tolerance: float = 1e-7

    def difference(self, other: "Fingerprint", part: str, tolerance: float = 0.0) -> str | None:
        """Where "factors", "data", "decay" or "velocity" differ, as a phrase; None if nowhere."""
        mine, theirs = getattr(self, part), getattr(other, part)
        if mine is None or theirs is None:
            return None
        leaves = ({key.split(":")[0] for key in table} for table in (mine, theirs))
        if lacking := sorted(next(leaves) ^ next(leaves)):
            return f"only one of the two has {lacking[0]!r}"
        slack = max(self.tolerance, other.tolerance, tolerance)
        for key in (key for key in mine if key in theirs):
            one, two = (np.asarray(x, float) for x in (mine[key], theirs[key]))
            if one.shape != two.shape:
                return f"{key} has {one.size} numbers in one and {two.size} in the other"
            finite = np.abs(one[np.isfinite(one)])
            scale = max(float(np.max(finite, initial=0.0)), 1e-300)
            with np.errstate(invalid="ignore"):
                apart = ~((one == two) | (np.abs(one - two) <= slack * scale))
            apart &= ~(np.isnan(one) & np.isnan(two))
            if apart.any():
                i = int(np.argmax(apart))
                return f"{key} differs at [{i}]: {one[i]:.6g} against {two[i]:.6g}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Numbers and strings only, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fingerprint":
        return cls(**values)


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """A flow and the model it starts from; called, their fingerprint, computed once."""

    flow: Flow | None
    model: PyTree
    log_alpha: float

    def __call__(self) -> Fingerprint:
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> Fingerprint:
        return fingerprint(self.flow, self.model, self.log_alpha)


def fingerprint(flow: Flow | None, model: PyTree, log_alpha: float) -> Fingerprint:
    """Of a flow and the model it starts from; without a flow of the start alone.

    `log_alpha` is the α said of leaves that carry none.
    """
    factors = None if model is None else start_factors(model, log_alpha)
    leaves = jax.tree.leaves(model, is_leaf=is_parameter)
    elapsed = max((float(x.elapsed) for x in leaves if isinstance(x, Small)), default=0.0)
    if flow is None:
        return Fingerprint(factors, None, None, None, elapsed)
    tolerance = float(np.sqrt(np.finfo(flow.dtype).eps))
    velocity = {} if flow.gradient else {"a velocity other than the gradient": _speeds(flow)}
    return Fingerprint(factors, probed(flow), _decays(flow), velocity, elapsed, tolerance)


def start_factors(model: PyTree, log_alpha: float) -> Table:
    """The α-free numbers of every array of a model."""
    paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    table: Table = {}
    for path, leaf in paths:
        name = leaf_name(path)
        for what, x in _numbers(leaf, log_alpha).items():
            table[f"{name}: {what}"] = _kept(np.asarray(x, float))
    return table


def _numbers(leaf: Any, log_alpha: float) -> dict[str, Any]:
    if isinstance(leaf, Parameter):
        return leaf.numbers(log_alpha)
    if eqx.is_inexact_array(leaf) or isinstance(leaf, np.ndarray):
        return {"array": leaf}
    return {f"part {i}": x for i, x in enumerate(jax.tree.leaves(leaf)) if eqx.is_array(x)}


def _kept(x: np.ndarray) -> list[float]:
    flat = x.ravel()
    if flat.size <= _WHOLE:
        return flat.tolist()
    return [float(np.linalg.norm(flat)), *(float(flat @ pattern(flat.shape, k)) for k in (1, 2))]


def pattern(shape: tuple[int, ...], number: int = 0) -> np.ndarray:
    """Fixed numbers in (−1, 1) without any regularity that data could share."""
    count = np.arange(1, math.prod(shape) + 1, dtype=float)
    return np.sin(count * (math.sqrt(2.0) + number) + 0.37 * count**1.5).reshape(shape)


def _speeds(flow: Flow) -> list[float]:
    """Of a flow along a velocity of the user's, at its start."""
    return _projected(np.asarray(flow.velocity(jnp.zeros((), flow.dtype), flow.start())))


def probed(flow: Flow) -> Table:
    """Loss and forces at the probe weights, as the loss is written, in one compiled program."""
    shapes = jax.eval_shape(lambda: flow.weights(flow.start()))
    probes = probe_weights({n: x.shape for n, x in shapes.items()})
    stacked = {n: jnp.asarray(x, shapes[n].dtype) for n, x in probes.items()}
    bare = dataclasses.replace(flow, coordinates=(), decay=(), kinks=AsWritten())
    loss, forces = _answers(bare, stacked)
    return summary(np.asarray(loss), {n: np.asarray(x) for n, x in forces.items()})


@eqx.filter_jit
def _answers(flow: Flow, probes: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    return jax.lax.map(flow.forces, probes)


def probe_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights by leaf name, a probe along the leading axis."""
    return {
        name: np.stack([size * pattern(shape, i) for size in _PROBES])
        for i, (name, shape) in enumerate(shapes.items())
    }


def summary(
    loss: Sequence[float] | np.ndarray, forces: Mapping[str, Sequence[np.ndarray] | np.ndarray]
) -> Table:
    """The table kept of losses and forces at the probes."""
    table = {"loss": [float(x) for x in loss]}
    for name, force in forces.items():
        for i, g in enumerate(force):
            table[f"force on {name} at probe {i}"] = _projected(g)
    return table


def _projected(x: np.ndarray) -> list[float]:
    flat = np.asarray(x, float).ravel()
    return [float(np.linalg.norm(flat)), *(float(flat @ pattern(flat.shape, k)) for k in (1, 2))]


def _decays(flow: Flow) -> Table:
    table: Table = {}
    for name, rate in zip(flow.names, flow.decay, strict=True):
        if rate is None:
            table[name] = [0.0] * len(_TIMES)
        elif isinstance(rate, Constant):
            table[name] = [float(rate.value)] * len(_TIMES)
        else:
            table[name] = [float(rate(jnp.asarray(t, flow.dtype))) for t in _TIMES]
    return table
