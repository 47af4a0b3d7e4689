"""Models and objectives stacked along a leading axis of members, and one of them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .parameters._base import leaf_name


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def member(tree: PyTree, i: int) -> PyTree:
    """Member `i` of a tree with a leading axis of members on every array."""

    def row(x: Any) -> Any:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):  # which the host does not know
            return x[i]
        return np.asarray(x)[i]

    arrays, rest = eqx.partition(tree, _is_array)
    return eqx.combine(jax.device_put(jax.tree.map(row, arrays)), rest)


def stacked(model: PyTree, objective: Any, in_axes: Any) -> tuple[PyTree, int]:
    """The model with a leading axis of members on every array, and their number."""
    if tuple(in_axes) not in ((0, None), (0, 0), (None, 0)):
        raise ValueError(
            f"in_axes = {in_axes}: (0, None) for stacked models and one objective, (None, 0) for "
            "one model and stacked objectives, (0, 0) for both."
        )
    sizes: dict[int, str] = {}
    for what, tree, axis in zip(("model", "objective"), (model, objective), in_axes, strict=True):
        if axis is None:
            continue
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if not _is_array(x):
                continue
            name = f"{what}.{leaf_name(path)}"
            if x.ndim == 0:
                raise ValueError(
                    f"{name} is a scalar, without the leading axis of members. Stack whole models "
                    "with jax.tree.map(lambda *x: jnp.stack(x), *models) or eqx.filter_vmap."
                )
            sizes.setdefault(x.shape[0], name)
    if len(sizes) != 1:
        listed = ", ".join(f"{name}: {size}" for size, name in sizes.items()) or "no arrays"
        raise ValueError(f"The members of a batch need one leading axis in common; got {listed}.")
    members = next(iter(sizes))
    if in_axes[0] is None:
        model = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (members, *x.shape)) if _is_array(x) else x, model
        )
    return model, members


def joined_models(models: list[PyTree]) -> PyTree:
    """Models of one structure with a leading axis of members on every array."""

    def stack(*rows: Any) -> Any:
        if not _is_array(rows[0]):
            return rows[0]
        if jax.dtypes.issubdtype(rows[0].dtype, jax.dtypes.prng_key):
            return jnp.stack(rows)
        return jax.device_put(np.stack([np.asarray(row) for row in rows]))

    return jax.tree.map(stack, *models)
