"""Where two trained factors meet in a product A Bᵀ: in a model, and in a run of it."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from gflow import Factored, Parameter, Product, Symmetric, Trajectory
from gflow.internal import Decay, PlainFactors, error_bar, leaf_name
from gflow.models import DeepLinear

from ._closed_form import Reading

#: What a function of recorded leaves gives: A (..., m, r) and B (..., n, r) at their times.
Factors = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class FactorPair:
    """A: (..., m, r), B: (..., n, r) of one product, trained by gradient flow on both.

    `name`: of the leaf, or of the two, "weights.1 · weights.0"; `leaves`: those it is of.
    `turns`: a run may turn the columns of both, so that AᵀA − BᵀB is known by its eigenvalues.
    `whole`: whether A Bᵀ is all that the model sees of them.
    """

    name: str
    leaves: tuple[str, ...]
    left: Float[np.ndarray, "... m r"]
    right: Float[np.ndarray, "... n r"]
    recorded: Callable[[Mapping[str, Any]], Factors]
    turns: bool
    whole: bool

    def read(self, function: Callable[[np.ndarray, np.ndarray], Any]) -> Callable:
        """Reads from a run a function of A and B, their times along the leading axis.

        The size of what it is read from is ‖A‖² + ‖B‖².
        """

        def of(run: Trajectory) -> Reading:
            a, b = self.recorded(run.leaves)
            main = np.asarray(function(a, b), float)
            times = len(run.t)
            size = np.sum(a.reshape(times, -1) ** 2, axis=1) + np.sum(
                b.reshape(times, -1) ** 2, axis=1
            )
            if run.refined is None:
                return Reading(main, np.full(main.shape, np.nan), size)
            other = np.asarray(function(*self.recorded(run.refined["leaves"])), float)
            return Reading(main, error_bar(run.times, main, other), size)

        return of


def factor_pairs(model: PyTree) -> list[FactorPair]:
    """Every pair of neighbouring trained factors whose product is all that the loss sees.

    Of `gflow.Factored` and `gflow.Product` leaves, plain factors, and neighbouring plain weights
    of `gflow.models.DeepLinear`.
    """

    def stops(node: Any) -> bool:
        return isinstance(node, DeepLinear | Parameter)

    pairs = []
    for path, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=stops)[0]:
        name = leaf_name(path)
        if isinstance(node, DeepLinear):
            prefix = f"{name}.weights" if name else "weights"
            pairs += _of_layers(prefix, node)
        elif isinstance(node, Factored) and not isinstance(node, Symmetric):
            scale = np.exp(np.asarray(node.log_scale))[..., None, :]
            sides = (np.asarray(x) * scale for x in (node.left, node.right))
            pairs.append(FactorPair(name, (name,), *sides, _columns(name), True, True))
        elif isinstance(node, PlainFactors):
            sides = np.asarray(node.left), np.asarray(node.right)
            pairs.append(FactorPair(name, (name,), *sides, _factors(name, 0), False, True))
        elif isinstance(node, Product):
            pairs += _of_chain(name, [np.asarray(x) for x in node.factors])
    return pairs


def decay_of(pair: FactorPair, decay: Decay) -> float | Callable[[float], Any]:
    """λ or λ(t) of both factors. **Raises:** ValueError where they decay differently."""
    rates = [decay.get(n, 0.0) if isinstance(decay, Mapping) else decay for n in pair.leaves]
    first = rates[0]
    if any(rate is not first and (callable(rate) or callable(first) or rate != first)
           for rate in rates):  # fmt: skip
        raise ValueError(
            f"The factors {pair.name} decay at {rates}: the laws hold for one decay of both. Give "
            "them the same λ, or compare them by simulation."
        )
    return first if callable(first) else float(first)


def constant_decay(pair: FactorPair, decay: Decay) -> float:
    """`decay_of` where it is a number. **Raises:** ValueError for λ(t)."""
    rate = decay_of(pair, decay)
    if callable(rate):
        raise ValueError(
            "The time-course is known in closed form for a constant decay; λ(t) was given. Give a "
            "number, or theory.weight_decay.imbalance, which takes schedules."
        )
    return rate


def _of_layers(prefix: str, model: DeepLinear) -> list[FactorPair]:
    weights, whole = model.weights, len(model.weights) == 2
    pairs = []
    for k, (below, above) in enumerate(itertools.pairwise(weights)):
        if not (eqx.is_inexact_array(below) and eqx.is_inexact_array(above)):
            continue
        names = f"{prefix}.{k + 1}", f"{prefix}.{k}"

        def recorded(leaves: Mapping[str, Any], names=names) -> Factors:
            a, b = (np.asarray(leaves[name]["value"]) for name in names)
            return a, b.swapaxes(-1, -2)

        sides = np.asarray(above), np.asarray(below).T
        pairs.append(FactorPair(" · ".join(names), names, *sides, recorded, False, whole))
    return pairs


def _of_chain(name: str, factors: list[np.ndarray]) -> list[FactorPair]:
    pairs = []
    for k, (a, b) in enumerate(itertools.pairwise(factors)):
        whole = len(factors) == 2
        label = name if whole else f"{name}, factors {k} and {k + 1}"
        sides = a, b.swapaxes(-1, -2)
        pairs.append(FactorPair(label, (name,), *sides, _factors(name, k), False, whole))
    return pairs


def _columns(name: str) -> Callable[[Mapping[str, Any]], Factors]:
    def recorded(leaves: Mapping[str, Any]) -> Factors:
        leaf = leaves[name]
        both = np.asarray(leaf["direction"]) * np.exp(np.asarray(leaf["log_size"]))[..., None, :]
        cut = np.asarray(leaf["value"]).shape[-2]
        return both[..., :cut, :], both[..., cut:, :]

    return recorded


def _factors(name: str, k: int) -> Callable[[Mapping[str, Any]], Factors]:
    def recorded(leaves: Mapping[str, Any]) -> Factors:
        a, b = (np.asarray(leaves[name][f"factor_{i}"]) for i in (k, k + 1))
        return a, b.swapaxes(-1, -2)

    return recorded
