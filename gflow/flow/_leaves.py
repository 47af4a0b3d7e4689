"""What the leaves of a model and its observables may be and be called.

Every quantity of a run has one name: the leaves, what is read off them (`w.log_abs`), the loss,
its descent and the two times, and the user's observables.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..parameters._base import Parameter, is_parameter, is_trained, leaf_name

#: What every run has.
RESERVED = ("loss", "descent", "t", "tau")
#: What is read off a leaf.
_READ = ("log_abs", "log_singular", "above_sqrt_alpha")


def check_leaves(model: PyTree) -> None:
    """**Raises:** ValueError for leaves that would not be trained and for two of one name.

    A Python float is a constant where the class declares its field a `float` (of a dropout
    rate, a slope, a temperature: `p: float`), and refused everywhere else, in a dictionary, a
    list or a field of arrays, where it is a weight that would silently stay.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    seen: dict[str, str] = {}
    for path, leaf in paths:
        name = leaf_name(path)
        if isinstance(leaf, Parameter):
            _check_alone(name, leaf)
        if isinstance(leaf, float | complex) and not isinstance(leaf, np.generic):
            _check_constant(model, path, name, leaf)
        if not is_trained(leaf):
            continue
        for taken in (name, *(f"{name}.{what}" for what in _READ if is_parameter(leaf))):
            here = jax.tree_util.keystr(path)
            if taken in seen:
                raise ValueError(
                    f"Two quantities of this model have the name {taken!r}: those of model{here} "
                    f"and model{seen[taken]}. Rename one of the two (a dot in the key of a "
                    "dictionary reads as a level of the model)."
                )
            seen[taken] = here
        if name in RESERVED:
            raise ValueError(
                f"A leaf of this model is called {name!r}, which is what every run calls its own "
                f"(one of {', '.join(RESERVED)}). Rename that field or key of the model."
            )


def check_observable_names(names: Iterable[Any], model: PyTree) -> None:
    """**Raises:** ValueError for names that a run uses already."""
    paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    leaves = [leaf_name(p) for p, x in paths if is_trained(x)]
    derived = {f"{leaf}.{what}": leaf for leaf in leaves for what in _READ}
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"The name of an observable is a string; {name!r} was given.")
        if name in RESERVED or name.startswith("error."):
            why = "which is what every run calls its own"
        elif name in leaves:
            why = "which is the name of a leaf, whose weight is recorded under it"
        elif name in derived:
            why = f"under which the sizes of leaf {derived[name]!r} are recorded"
        else:
            continue
        raise ValueError(
            f"An observable is called {name!r}, {why}. It would take its place: choose another "
            f"name, such as {'my_' + name.replace('.', '_')!r}."
        )


def _check_alone(name: str, leaf: Parameter) -> None:
    """**Raises:** ValueError for a parameter that holds others that are trained."""

    def inner(x):
        return x is not leaf and is_parameter(x)

    held = [x for x in jax.tree.leaves(leaf, is_leaf=inner) if inner(x) and is_trained(x)]
    if held:
        kinds = type(leaf).__name__, type(held[0]).__name__
        raise ValueError(
            f"Leaf {name!r}: {kinds[0]} is a gflow.Parameter and holds another, a {kinds[1]}, "
            "whose coordinates would be lost. Make it an eqx.Module with a property `value`: each "
            "parameter in it is then trained in its own."
        )


def _check_constant(model: PyTree, path: tuple[Any, ...], name: str, leaf: Any) -> None:
    declared = _declared(model, path)
    if re.search(r"\b(float|complex|int)\b", declared) and "Array" not in declared:
        return
    raise ValueError(
        f"Leaf {name!r} = {leaf!r} is a Python {type(leaf).__name__}, which is not trained. Make "
        f"it jnp.asarray({leaf!r}) if it is a weight. If it is a constant make it "
        "gflow.Frozen(...), or a field of a module that is declared `float` or "
        "eqx.field(static=True)."
    )


def _declared(node: Any, path: tuple[Any, ...]) -> str:
    """The type of the innermost field of a module on the way, as it is written."""
    declared = ""
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            if not dataclasses.is_dataclass(node):
                return ""
            kind = {f.name: f.type for f in dataclasses.fields(node)}.get(key.name, "")
            declared = kind.__name__ if isinstance(kind, type) else str(kind)
            node = getattr(node, key.name)
        elif isinstance(key, jax.tree_util.DictKey):
            node = node[key.key]
        elif isinstance(key, jax.tree_util.SequenceKey):
            node = node[key.idx]
        else:
            return ""
    return declared
