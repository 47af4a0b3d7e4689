r"""What is read off tokens at every depth: functions of the tokens and of the block to come."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._blocks import Block, Chain, Recurrent, Residual
from ._tokens import Tokens, scaled_sum

#: (tokens, the block that acts on them next) ↦ numbers.
Observable = Callable[[Tokens, Block | Recurrent], Array]


def log_residual(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """ln ‖X − 1x̄‖_F, −∞ of equal tokens."""
    return tokens.log_size


def log_norm(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """ln ‖X‖_F."""
    mean = 2.0 * tokens.log_mean + jnp.log(jnp.sum(tokens.counts))
    return 0.5 * jnp.logaddexp(mean, 2.0 * tokens.log_size)


def log_apart(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """ln(1 − ρ) of `correlation`, to any smallness."""
    n = jnp.sum(tokens.counts)
    return jnp.log(n / (n - 1.0)) + 2.0 * (tokens.log_size - log_norm(tokens, block))


def correlation(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """ρ = Σ_{k≠l}⟨x_k, x_l⟩/((n − 1)Σ‖x_k‖²): 1 of equal tokens, 0 of orthogonal ones."""
    return -jnp.expm1(log_apart(tokens, block))


def effective_rank(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """exp(−Σ p_i ln p_i), p_i = σ_i(X)/Σσ: 1 of equal tokens (Roy & Vetterli, EUSIPCO 2007)."""
    p = jnp.linalg.svdvals(_relative(tokens))
    p = p / jnp.sum(p)
    return jnp.exp(-jnp.sum(p * jnp.log(jnp.where(p > 0.0, p, 1.0))))


def orthogonality_gap(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """‖XXᵀ/‖X‖² − I/n‖_F: 0 of orthogonal tokens of one length, √(1 − 1/n) of equal ones."""
    x = _relative(tokens)
    n = x.shape[0]
    return jnp.linalg.norm(x @ x.T / jnp.sum(x**2) - jnp.eye(n) / n)


def head_entropies(tokens: Tokens, block: Block | Recurrent) -> Float[Array, " heads"]:
    """Of each head the entropy of the rows of attention, in nats, mean over queries: ln n if
    uniform, and over the n queries of causal attention ln(n!)/n.

    **Raises:** ValueError where the block to come has no attention: of a `Chain` or `Residual` it
    is the first inside.
    """
    a = attention_weights(tokens, block)
    return -jnp.mean(jnp.sum(a * jnp.log(jnp.where(a > 0.0, a, 1.0)), axis=-1), axis=-1)


def attention_entropy(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """Mean entropy of the rows of attention, in nats, over queries and heads: ln n if uniform.

    **Raises:** ValueError as `head_entropies`.
    """
    return jnp.mean(head_entropies(tokens, block))


def participation(tokens: Tokens, block: Block | Recurrent) -> Float[Array, ""]:
    """Mean Σ_j A_ij² over queries and heads: 1/n of uniform attention, 1 of attention to one token.

    **Raises:** ValueError as `head_entropies`.
    """
    return jnp.mean(jnp.sum(attention_weights(tokens, block) ** 2, axis=-1))


def _relative(tokens: Tokens) -> Float[Array, "n d"]:
    """X but for a factor."""
    return scaled_sum(
        (jnp.broadcast_to(tokens.mean[None], tokens.deviation.shape), tokens.log_mean),
        (tokens.deviation, tokens.log_size),
    )[0]


def attention_weights(
    tokens: Tokens, block: Block | Recurrent
) -> Float[Array, "heads queries keys"]:
    """The attention of every head in plain floats: of the block to come, or the first inside.

    **Raises:** ValueError where there is none with `weights(tokens)`, as `Attention` has.
    """
    found, _ = _first(tokens, block)
    if found is None:
        raise ValueError(
            f"Attention is read off a block with weights(tokens), and {type(block).__name__} has "
            "none: observe a function of yours that names the block inside, such as lambda tokens, "
            "block: depth.attention_entropy(tokens, block.inner)."
        )
    return found


def _first(tokens: Tokens, block: Block | Recurrent) -> tuple[Array | None, Tokens]:
    """The first attention inside a block, or None and the tokens after it."""
    if isinstance(block, Residual):
        found, _ = _first(tokens, block.block)
        return (found, tokens) if found is not None else (None, block(tokens))
    if isinstance(block, Chain):
        found = None
        for part in block.blocks:
            found, tokens = _first(tokens, part)
            if found is not None:
                break
        return found, tokens
    read = getattr(block, "weights", None)
    if read is not None:
        return read(tokens), tokens
    return None, tokens if isinstance(block, Recurrent) else block(tokens)
