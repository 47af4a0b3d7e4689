"""The two products of every head of an attention, written alike whatever the module holds."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..coordinates._product import balances
from ..coordinates._view import View
from ..models import DiagonalAttention, LinearAttention, MultiHeadAttention, SoftmaxAttention
from ..parameters._base import Parameter, leaf_name

Attention = MultiHeadAttention | SoftmaxAttention | LinearAttention | DiagonalAttention


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A product of every head of the attention at `path`, or its change since a start."""

    path: str
    name: Literal["kq", "vo"]
    start: Float[Array, "heads d d"] | None = None

    def __call__(self, model: PyTree) -> Float[Array, "heads d d"]:
        """**Raises:** ValueError where the model has no attention there."""
        return self.view(model).value

    def __str__(self) -> str:
        return f"{self.name} of {self.path!r}"

    def view(self, model: PyTree) -> View:
        """The product with its factors where it has any: a change has none."""
        attention = attention_at(model, self.path)
        if isinstance(attention, MultiHeadAttention):
            found = _of_pair(*attention.pairs[self.name])
        elif isinstance(attention, DiagonalAttention):
            found = _diagonal(_viewed(getattr(attention, self.name)))
        else:
            found = _led_by_heads(_viewed(getattr(attention, self.name)))
        if self.start is None:
            return found
        if self.start.shape != found.value.shape:
            raise ValueError(
                f"{self} has the shape {found.value.shape} and in `since` {self.start.shape}: give "
                "a model of the same sizes."
            )
        return View(found.value - self.start)


def key_query(path: str, since: PyTree | None = None) -> Product:
    r"""KQ of every head, (heads, d, d): the logit of query token x and key token y is x KQ yᵀ.

    Up to the scale 1/√d_h or `scale`, tokens being rows. `path` is that of an attention in the
    model, such as "layers.0.attention", or "" of an attention by itself. It is W_QᵀW_K of
    `MultiHeadAttention`, `kq.value` of `SoftmaxAttention` and `LinearAttention`, diag(`kq.value`)
    of `DiagonalAttention`. With `since`, a model, KQ less that of this model.

    It goes wherever the functions here take the name of a leaf. Its factors are W_Qᵀ and W_K, with
    the balance W_QW_Qᵀ − W_KW_Kᵀ, those of a `kq` that has some, or diagonals; a change has none.

    **Raises:** ValueError where a model has no attention at `path`, and for another shape in
    `since`.

    ```python
    kq = observables.key_query("layers.0.attention", since=model)
    watched = {"kq": kq, "rank": observables.stable_rank(kq)}
    ```
    """
    return _product(path, "kq", since)


def value_output(path: str, since: PyTree | None = None) -> Product:
    r"""VO of every head, (heads, d, d): the token y sends y VO to the queries that attend to it.

    Arguments and errors as of `key_query`. It is W_VᵀPᵀ of `MultiHeadAttention`, with factors
    W_Vᵀ and Pᵀ; `vo.value` of the others.

    ```python
    observables.spectrum(observables.value_output("layers.0.attention"))(run.final)
    ```
    """
    return _product(path, "vo", since)


def _product(path: str, name: Literal["kq", "vo"], since: PyTree | None) -> Product:
    return Product(path, name, None if since is None else Product(path, name)(since))


def attention_at(model: PyTree, path: str) -> Attention:
    """**Raises:** ValueError that lists the attentions where none has this path."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_attention)
    found = {leaf_name(at): node for at, node in nodes if is_attention(node)}
    if path not in found:
        has = f"it has {', '.join(map(repr, found))}" if found else "it has none"
        raise ValueError(
            f"The model has no attention at {path!r}; {has}. What can be read is a gflow.models."
            "MultiHeadAttention, SoftmaxAttention, LinearAttention or DiagonalAttention."
        )
    return found[path]


def is_attention(node: Any) -> bool:
    return isinstance(node, Attention)


def _of_pair(a: Float[Array, "heads d r"], b: Float[Array, "heads d r"]) -> View:
    """(A Bᵀ)ᵀ: papers with tokens in columns write the products the other way round."""
    factors = b, a.swapaxes(-1, -2)
    return View(jnp.matmul(*factors), factors, balances(factors)[0], True)


def _viewed(weight: Any) -> View:
    """What is known of a weight, a parameter or what a run shows of it."""
    if isinstance(weight, View):
        return weight
    if not isinstance(weight, Parameter):
        return View(weight.value)
    factors = getattr(weight, "factors", None)
    return View(weight.value, factors, weight.conserved(), weight.spectral)


def _led_by_heads(weight: View) -> View:
    return weight if weight.value.ndim == 3 else jax.tree.map(lambda x: x[None], weight)


def _diagonal(weight: View) -> View:
    """Rows as diagonals, and as a chain of two diagonals where they are u⊙v."""
    diagonals = jax.vmap(jnp.diag)
    if weight.known_factors is None or weight.spectral:
        return View(diagonals(weight.value))
    u, v = weight.known_factors
    factors = diagonals(u), diagonals(v)
    return View(diagonals(weight.value), factors, diagonals(weight.invariant), True)
