"""A whole model that stays, and trained changes of some of its weights."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._arguments import leaf_names
from ..parameters._base import Constant, Parameter, is_parameter, leaf_name, trained_leaves


class Tuned(eqx.Module):
    r"""A trained model with W + ΔW in place of some of its weights: only the changes are trained.

    Every array of `model` stays as it is; `changes` are parameters by the names of the leaves that
    they change, adapters (LoRA) when they are `gflow.Factored`. The trained leaves are called
    `changes.<name>`. Works for any Equinox module; for a model built of weights that are read by
    `.value` there is `Adapted`, weight by weight.

    **Raises:** ValueError for a name that is no leaf of the model, and another shape.

    ```python
    names = ("layers.0.attention.query", "layers.0.attention.key")
    changes = {name: gflow.Factored.small((2, 16, 32), 4, log_alpha=-230, key=k)
               for name, k in zip(names, keys)}
    tuned = gflow.models.Tuned(trained, changes)      # tuned(x), tuned.whole
    gflow.simulate(tuned, objective, tau1=2.0)
    ```
    """

    model: PyTree
    changes: dict[str, Parameter]

    def __init__(self, model: PyTree, changes: Mapping[str, Parameter]):
        leaves = trained_leaves(model)
        leaf_names("changes", changes, list(leaves))
        for name, change in changes.items():
            shape = _value(leaves[name]).shape
            if change.value.shape != shape:
                raise ValueError(
                    f"changes[{name!r}] has shape {change.value.shape}, the weight it changes "
                    f"{shape}; the two must agree."
                )
        self.model = jax.tree.map(_kept, model, is_leaf=is_parameter)
        self.changes = dict(changes)

    @property
    def whole(self) -> PyTree:
        """The model with its changed weights, as plain arrays or with a `.value`."""

        def changed(path: Any, leaf: Any) -> Any:
            if not isinstance(leaf, _Kept):
                return leaf
            value, change = leaf.array.value, self.changes.get(leaf_name(path))
            value = value if change is None else value + change.value
            return _Shown(value) if leaf.parameter else value

        return jax.tree_util.tree_map_with_path(
            changed, self.model, is_leaf=lambda x: isinstance(x, _Kept)
        )

    def __call__(self, *inputs: PyTree) -> PyTree:
        return self.whole(*inputs)


class _Kept(eqx.Module):
    """An array that no gradient changes; `parameter`: that of a leaf with a `.value`."""

    array: Constant
    parameter: bool = eqx.field(static=True)


class _Shown(eqx.Module):
    value: Float[Array, "..."]


def _value(leaf: Any) -> Array:
    return leaf.value if is_parameter(leaf) else jnp.asarray(leaf)


def _kept(leaf: Any) -> Any:
    if is_parameter(leaf) or eqx.is_inexact_array(leaf):
        return _Kept(Constant(_value(leaf)), is_parameter(leaf))
    return leaf
