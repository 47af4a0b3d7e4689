"""Functions of one weight of a model, a leaf or a product: balance, gap, alignment, spectra."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._arguments import number
from .._svd import thin_svd
from ..coordinates._view import View
from ..parameters._base import Parameter, leaf_name
from ._products import Product


@dataclasses.dataclass(frozen=True)
class Observable:
    """A function of one weight of a model: a leaf, found by its name, or a product of heads."""

    weight: str | Product
    read: Callable[[PyTree], Float[Array, "..."]]

    def __call__(self, model: PyTree) -> Float[Array, "..."]:
        """**Raises:** ValueError where the model has no such leaf or product."""
        if isinstance(self.weight, Product):
            name, found = str(self.weight), self.weight.view(model)
        else:
            name, found = f"Leaf {self.weight!r}", _named(model, self.weight)
        try:
            return self.read(found)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _named(model: PyTree, name: str) -> Any:
    paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_leaf)
    leaves = {leaf_name(path): leaf for path, leaf in paths}
    if name not in leaves:
        raise ValueError(f"The model has no leaf {name!r}; its leaves are {', '.join(leaves)}.")
    return leaves[name]


def norm(weight: str | Product) -> Observable:
    """Frobenius norm ‖W‖, of weights of any size in the floats."""
    return Observable(weight, _norm)


def spectrum(weight: str | Product) -> Observable:
    """Singular values of the weight, descending: (..., min(m, n)); heads lead.

    **Raises** (when it is applied, as all functions here): ValueError for a weight without rows
    and columns, or without factors where these are read.
    """
    return Observable(weight, _spectrum)


def stable_rank(weight: str | Product) -> Observable:
    """‖W‖_F²/‖W‖²: between 1 and the rank, 0 of a weight that is zero."""
    return Observable(weight, _stable_rank)


def effective_rank(weight: str | Product) -> Observable:
    """exp(−Σ p_i ln p_i) with p_i = σ_i/Σσ: between 1 and min(m, n), 0 of a weight that is zero.

    **Source:** Roy & Vetterli, EUSIPCO 2007.
    """
    return Observable(weight, _effective_rank)


def numerical_rank(weight: str | Product, tolerance: float) -> Observable:
    """How many singular values exceed `tolerance` times the largest; 0 of a weight that is zero.

    **Raises:** ValueError for a tolerance outside [0, 1).
    """
    least = number("tolerance", tolerance, "a part of the largest singular value")
    if not 0.0 <= least < 1.0:
        raise ValueError(f"tolerance = {tolerance}: a part of the largest, at least 0 and below 1.")

    def read(leaf: Any) -> Array:
        s, _ = _relative(leaf)
        return jnp.sum(s > least, axis=-1, dtype=s.dtype)

    return Observable(weight, read)


def nuclear_excess(weight: str | Product) -> Observable:
    """‖W‖_* − ‖W‖_F ≥ 0 of every head: zero of rank one and below, and nowhere else."""
    return Observable(weight, _nuclear_excess)


def balance(weight: str | Product) -> Observable:
    """What gradient flow without decay conserves, and with decay λ lets die as e^{−2λt}.

    Of u⊙v the numbers u² − v². Of a product of matrices the eigenvalues of aᵀa − bbᵀ, ascending,
    for every two neighbours a, b: the columns of `gflow.Factored` turn among themselves during a
    run, and eigenvalues are what such a rotation leaves as it is. Known to the rounding of ‖a‖².
    """
    return Observable(weight, _balance)


def gap(weight: str | Product) -> Observable:
    r"""½‖A‖² + ½‖B‖² − ‖ABᵀ‖_* ≥ 0: what two factors pay beyond the nuclear norm, of every head.

    As a sum of squares, with ABᵀ = USVᵀ: ½‖UᵀA − VᵀB‖² + ½‖A − UUᵀA‖² + ½‖B − VVᵀB‖². It is never
    negative, and right far below the rounding of the norms. **Source:** 2410.23819.
    """
    return Observable(weight, _gap)


def alignment(weight: str | Product) -> Observable:
    """|cos| between the leading right singular vector of each factor and the left of the next.

    (..., D − 1) for D matrices: 1 where layers are aligned, as balance makes those of deep linear
    networks (Ji & Telgarsky, 1810.02032). Rotations of inner spaces leave it as it is.
    """
    return Observable(weight, _alignment)


def _is_leaf(node: Any) -> bool:
    return isinstance(node, Parameter | View)


def value(leaf: Any) -> Array:
    """The effective weight of a leaf."""
    return leaf.value if _is_leaf(leaf) else jnp.asarray(leaf)


def _matrices(leaf: Any) -> tuple[Array, ...]:
    if not (_is_leaf(leaf) and leaf.spectral):
        raise ValueError("this is read off factors, and the weight is no product of matrices.")
    return leaf.factors


def _spectrum(leaf: Any) -> Array:
    weight = value(leaf)
    if weight.ndim < 2:
        raise ValueError(f"a weight of shape {weight.shape} has no singular values.")
    return jnp.linalg.svdvals(weight)


def _relative(leaf: Any) -> tuple[Array, Array]:
    """Singular values over the largest, and that."""
    s = _spectrum(leaf)
    largest = s[..., :1]
    return s / jnp.where(largest > 0.0, largest, 1.0), largest[..., 0]


def _stable_rank(leaf: Any) -> Array:
    s, _ = _relative(leaf)
    return jnp.sum(s**2, axis=-1)


def _effective_rank(leaf: Any) -> Array:
    s, largest = _relative(leaf)
    total = jnp.sum(s, axis=-1, keepdims=True)
    p = s / jnp.where(total > 0.0, total, 1.0)
    entropy = -jnp.sum(p * jnp.log(jnp.where(p > 0.0, p, 1.0)), axis=-1)
    return jnp.where(largest > 0.0, jnp.exp(entropy), 0.0)


def _nuclear_excess(leaf: Any) -> Array:
    # with σ₁ = 1: t + 1 − √(1 + q), t = Σ_{i>1} σ_i and q = Σ_{i>1} σ_i², without cancellation
    s, largest = _relative(leaf)
    rest = s[..., 1:]
    t, q = jnp.sum(rest, axis=-1), jnp.sum(rest**2, axis=-1)
    return largest * (t - q / (1.0 + jnp.sqrt(1.0 + q)))


def _balance(leaf: Any) -> Array:
    if not _is_leaf(leaf):
        raise ValueError("an array by itself has nothing that the flow conserves.")
    found = leaf.conserved()
    parts = list(found) if isinstance(found, tuple) else [found]
    if leaf.spectral:
        parts = [jnp.linalg.eigvalsh(x) if x.size else x for x in parts]
    return jnp.concatenate(parts or [jnp.zeros((0,))], axis=-1)


def _gap(leaf: Any) -> Array:
    factors = _matrices(leaf)
    if len(factors) != 2:
        raise ValueError(f"the gap is one of two factors, and there are {len(factors)}.")
    a, b = factors[0], factors[1].swapaxes(-1, -2)
    u, _, vt = thin_svd(jnp.matmul(a, factors[1]))
    in_u, in_v = jnp.matmul(u.swapaxes(-1, -2), a), jnp.matmul(vt, b)
    out_u, out_v = a - jnp.matmul(u, in_u), b - jnp.matmul(vt.swapaxes(-1, -2), in_v)
    squares = [jnp.sum(x**2, axis=(-2, -1)) for x in (in_u - in_v, out_u, out_v)]
    return 0.5 * (squares[0] + squares[1] + squares[2])


def _alignment(leaf: Any) -> Array:
    parts = [thin_svd(x) for x in _matrices(leaf)]
    cosines = [
        jnp.abs(jnp.sum(one[2][..., 0, :] * other[0][..., :, 0], axis=-1))
        for one, other in itertools.pairwise(parts)
    ]
    return jnp.stack(cosines, axis=-1)


def _norm(leaf: Any) -> Array:
    weight = value(leaf)
    largest = jnp.max(jnp.abs(weight), initial=0.0)  # squares of tiny entries would vanish
    unit = jnp.where(largest > 0.0, largest, 1.0)
    return unit * jnp.sqrt(jnp.sum((weight / unit) ** 2))
