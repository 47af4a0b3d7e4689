"""The plain weights of a model as one vector, and that vector read off what an observable sees."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._eager import on_device
from ..coordinates._view import View
from ..parameters._base import Parameter, Small, Trainable, is_parameter, is_trained, leaf_name
from ..parameters._symmetric import SquareFactor

#: Letters of the factors of a leaf, as they stand in the text of a law.
FACTORS = "ABCDEFGH"


@dataclasses.dataclass(frozen=True)
class Reading:
    """Names of the trained leaves, and how many factors of each are read (None: its arrays)."""

    leaves: tuple[tuple[str, int | None], ...]

    def __call__(self, model: PyTree) -> Float[Array, " size"]:
        """All weights of `model`, or of a run's views in its place."""
        arrays = [x for _, parts in self.parts(model) for x in parts]
        return jnp.concatenate([jnp.ravel(x) for x in arrays])

    def parts(self, model: PyTree) -> Iterator[tuple[str, list[Array]]]:
        """**Raises:** ValueError where the model has other leaves."""
        paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_leaf)
        found = {leaf_name(path): leaf for path, leaf in paths}
        for name, count in self.leaves:
            if name not in found:
                raise ValueError(
                    f"The model has no leaf {name!r}: the laws are those of a model with leaves "
                    f"{', '.join(name for name, _ in self.leaves)}."
                )
            yield name, _arrays(found[name], count)


@dataclasses.dataclass(frozen=True)
class Flat:
    """A model, its plain weights θ in the order of `reading`, and what an entry of θ is called."""

    model: PyTree
    reading: Reading
    start: np.ndarray
    labels: tuple[str, ...]
    order: np.ndarray
    #: For each entry, the number of its leaf, and a typical size of a random weight there.
    leaf_of: np.ndarray
    spread: np.ndarray

    def at(self, theta: Float[Array, " size"]) -> PyTree:
        """The model with these weights."""
        arrays, rest = eqx.partition(self.model, trained(self.model))
        leaves, tree = jax.tree.flatten(arrays)
        sizes = np.cumsum([x.size for x in leaves])[:-1].tolist()
        pieces = jnp.split(theta[self.order], sizes)
        shaped = [x.reshape(leaf.shape) for x, leaf in zip(pieces, leaves, strict=True)]
        return eqx.combine(jax.tree.unflatten(tree, shaped), rest)


def flat(model: PyTree) -> Flat:
    """**Raises:** ValueError for leaves in scale form, float32, and where nothing is trained."""
    paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    leaves = {leaf_name(path): leaf for path, leaf in paths if is_trained(leaf)}
    if not leaves:
        raise ValueError(f"{type(model).__name__} has nothing to train.")
    for name, leaf in leaves.items():
        _check(name, leaf)
    reading = Reading(tuple((name, _count(leaf)) for name, leaf in leaves.items()))
    arrays, rest = eqx.partition(model, trained(model))
    values, tree = jax.tree.flatten(arrays)
    sizes = np.cumsum([0, *(x.size for x in values)])
    places = [
        on_device(np.arange(a, b, dtype=float).reshape(x.shape))
        for (a, b), x in zip(itertools.pairwise(sizes), values, strict=True)
    ]
    numbered = eqx.combine(jax.tree.unflatten(tree, places), rest)
    labels, leaf_of, spread, read = [], [], [], []
    for number, (name, parts) in enumerate(reading.parts(numbered)):
        for letter, part in zip(FACTORS, parts, strict=False):
            part = np.asarray(part)
            read.append(part.ravel())
            word = name if len(parts) == 1 else f"{name}.{letter}"
            labels += [_entry(word, at) for at in np.ndindex(part.shape)]
            leaf_of += [number] * part.size
            spread += [part.shape[-1] ** -0.5 if part.ndim > 1 else 1.0] * part.size
    order = np.concatenate(read).astype(int)
    if sorted(order) != list(range(sizes[-1])):
        raise ValueError(
            f"The factors of leaves {', '.join(leaves)} are not their arrays one by one: use plain "
            "arrays, gflow.Product or gflow.to_factors(model)."
        )
    start = np.concatenate([np.ravel(np.asarray(x)) for x in values])[order]
    return Flat(
        model, reading, start, tuple(labels), np.argsort(order), np.array(leaf_of), np.array(spread)
    )


def trained(model: PyTree) -> PyTree:
    """Which arrays the flow moves."""

    def of(node: Any) -> PyTree:
        if not is_trained(node):
            return jax.tree.map(lambda _: False, node)
        return jax.tree.map(eqx.is_inexact_array, node)

    return jax.tree.map(of, model, is_leaf=is_parameter)


def _check(name: str, leaf: Any) -> None:
    if isinstance(leaf, Small):
        raise ValueError(
            f"Leaf {name!r} is a {type(leaf).__name__}, whose factors a run holds in scale form. "
            "Give the model, and run it, as gflow.to_factors(model)."
        )
    if any(x.dtype != np.float64 for x in jax.tree.leaves(leaf) if eqx.is_inexact_array(x)):
        raise ValueError(
            f"Leaf {name!r} is not float64. Call jax.config.update('jax_enable_x64', True) before "
            "making the model."
        )


def _count(leaf: Any) -> int | None:
    if isinstance(leaf, SquareFactor):
        return 1
    factors = getattr(leaf, "factors", None) if isinstance(leaf, Trainable) else None
    return None if factors is None else len(factors)


def _is_leaf(node: Any) -> bool:
    return isinstance(node, Parameter | View)


def _arrays(leaf: Any, count: int | None) -> list[Array]:
    if count is not None:
        return list(leaf.factors[:count])
    if isinstance(leaf, View):
        return [leaf.value]
    return [x for x in jax.tree.leaves(leaf) if eqx.is_inexact_array(x)]


def _entry(name: str, at: tuple[int, ...]) -> str:
    return f"{name}[{','.join(map(str, at))}]" if at else name
