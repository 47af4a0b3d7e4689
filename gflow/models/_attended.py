"""What softmax attention reads, to all digits of what it leaves out and of what it singles out."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attended(logits: Float[Array, " tokens"], values: Float[Array, "tokens d"]) -> Array:
    r"""Σ_j softmax(s)_j v_j as v_m + Σ_{j≠m} a_j (v_j − v_m), m the largest logit.

    Once attention is on one token, forces on the logits are differences of what is all but equal,
    and below 1 − a_m = 10⁻¹⁶ nothing but rounding. From v_m on they keep their digits down to the
    smallest float.
    """
    top = jax.lax.stop_gradient(logits)
    first = jnp.cumsum(top == jnp.max(top)) == 1
    largest = first & (top == jnp.max(top))
    s, v = (jnp.sum(jnp.where(mask, x, 0.0), axis=0) for mask, x in (
        (largest, logits), (largest[:, None], values),
    ))  # fmt: skip
    odds = jnp.where(largest, 0.0, jnp.exp(logits - s))
    weights = odds / (1.0 + jnp.sum(odds))
    return v + weights @ (values - v[None])


def beyond_uniform(
    logits: Float[Array, "... queries keys"], *, causal: bool = False
) -> Float[Array, "... queries keys"]:
    r"""softmax(logits) less uniform attention, to all digits however small the logits are.

        P − P₀ = (e − mean e)/Σ(1 + e),   e = expm1(logits − max logits),   P₀ = 1/keys

    Heads with P_h ≈ P₀ feel one force. A layer that reads P₀ X · `vo.total` + Σ_h (P_h − P₀) X VO_h
    in place of Σ_h P_h X VO_h computes the same, and hands `gflow.simulate` that force and what
    tells the heads apart as two gradients: heads of `gflow.Factored` leaves are then held in one
    frame, in which their differences keep their digits at α = 1e-100. `softmax(logits) − P₀` in its
    place rounds, and with it the later stages of such a run. `causal`: a query sees the keys up to
    its own place, and P₀ is uniform on these. The last axis are keys.

    **Raises:** ValueError for causal logits of other than as many queries as keys.

    ```python
    class Heads(eqx.Module):
        kq: gflow.Factored
        vo: gflow.Factored

        def __call__(self, x):
            apart = gflow.models.beyond_uniform(x @ self.kq.value @ x.T)
            alike = jnp.mean(x, axis=0, keepdims=True) @ self.vo.total
            return alike + jnp.sum(apart @ (x @ self.vo.value), axis=0)
    ```
    """
    if not causal:
        e = jnp.expm1(logits - _largest(logits))
        keys = logits.shape[-1]
        total = jnp.sum(e, axis=-1, keepdims=True)
        return (e - total / keys) / (keys + total)
    seen, keys = _seen(logits.shape, logits.dtype)
    shifted = jnp.where(seen, logits - _largest(jnp.where(seen, logits, -jnp.inf)), 0.0)
    e = jnp.expm1(shifted)
    total = jnp.sum(e, axis=-1, keepdims=True)
    return jnp.where(seen, (e - total / keys) / (keys + total), 0.0)


def uniform(x: Float[Array, "tokens d"], *, causal: bool) -> Float[Array, "#tokens d"]:
    """P₀ X: the mean of the tokens, or of those up to every token."""
    if not causal:
        return jnp.mean(x, axis=0, keepdims=True)
    places = jnp.arange(1, len(x) + 1, dtype=x.dtype)
    return jnp.cumsum(x, axis=0) / places[:, None]


def _largest(logits: Array) -> Array:
    return jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))


def _seen(shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """Which keys a query sees, and how many."""
    queries, keys = shape[-2:]
    if queries != keys:
        raise ValueError(
            f"Causal attention needs as many queries as keys, and logits have shape {shape}: give "
            "one row for every token."
        )
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((keys, keys), bool)), shape)
    return seen, jnp.sum(seen, axis=-1, keepdims=True).astype(dtype)
