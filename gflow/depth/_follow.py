"""Tokens through layers."""

import concurrent.futures
import os
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from .._arguments import count, random_key
from ._blocks import Block, Recurrent
from ._networks import Fresh, Repeated
from ._observables import Observable, correlation, log_apart, log_norm, log_residual
from ._plain import Plain
from ._run import DepthRun
from ._tokens import Tokens, tokens_of

#: Read off every run.
ALWAYS: dict[str, Observable] = {
    "log_residual": log_residual, "log_norm": log_norm, "correlation": correlation,
    "log_apart": log_apart,
}  # fmt: skip
#: Of log_size, or of one, the error from which on nothing is shown.
KNOWN = 1e-3
#: Layers of all draws together from which on threads are worth it.
_MANY = 10_000

Network = Repeated | Fresh | Sequence[Block | Recurrent | Callable[[Array], Array]]
Start = Tokens | Shaped[Array | np.ndarray, "..."] | Callable[[PRNGKeyArray], Array]


def follow(
    network: Network,
    tokens: Start,
    *,
    observables: Mapping[str, Observable] | None = None,
    key: PRNGKeyArray | None = None,
    draws: int | None = None,
) -> DepthRun:
    r"""Tokens through the layers of a network, and what is observed of them at every layer.

    **Arguments:**
    - `network`: `Repeated(block, layers)`, `Fresh(make, layers)`, or a sequence of blocks, each a
      `Block`, a `Recurrent`, or a function of arrays (see `Plain`).
    - `tokens`: X (n, d), `Tokens`, or a function of a key that draws X.
    - `observables`: name ↦ function of (tokens, the block that acts on them next; at the end, the
      last one again), beside "log_residual", "log_norm", "correlation" and "log_apart".
    - `key` and `draws`: random weights and starts, so many times, independent; without `draws`
      one network.

    **Returns:** a `DepthRun`; observables have one entry a layer, the start first.
    **Raises:** ValueError for tokens, widths and layers that do not fit, a network or start that
    needs a key, and layers after which tokens are not finite (a feature without variance among the
    tokens in BatchNorm, a token without variance in LayerNorm).

    ```python
    depth.follow(depth.Repeated(lambda x: x + 0.1 * jnp.tanh(x), 1000), X).observables["log_apart"]
    ```
    """
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            'Depth needs float64: call jax.config.update("jax_enable_x64", True) first.'
        )
    random = isinstance(network, Fresh) or (callable(tokens) and not isinstance(tokens, Tokens))
    if random or draws is not None:
        if key is None:
            raise ValueError("Weights or tokens are drawn: pass key=jax.random.key(seed).")
        key = random_key(key)
    if not isinstance(network, Repeated | Fresh | list | tuple) or not network:
        raise ValueError(
            "network is a sequence of blocks, depth.Repeated(block, layers) or "
            f"depth.Fresh(make, layers), and {network!r:.100} is none."
        )
    layers = network if isinstance(network, Repeated | Fresh) else tuple(network)
    names = {**ALWAYS, **(observables or {})}
    start = tokens if callable(tokens) else tokens_of(tokens)
    if draws is None:
        seen, rounding, final = _one(layers, start, names, key)
    else:
        number = count("draws", draws, "how many networks are drawn")
        keys = jax.random.split(random_key(key), number)
        seen, rounding, final = _side_by_side(layers, start, names, keys, number)
    return _run(seen, rounding, final, draws)


def _run(seen: dict[str, Array], rounding: Array, final: Tokens, draws: int | None) -> DepthRun:
    error = np.asarray(rounding)
    bad = np.isnan(error)
    if np.any(bad):
        layer = int(np.argmax(np.any(bad.reshape(-1, error.shape[-1]), axis=0)))
        raise ValueError(
            f"After layer {layer} tokens are not finite: (a) BatchNorm of a feature that is the "
            "same for all tokens, (b) LayerNorm of a token without variance, (c) a function of "
            "yours that overflows."
        )
    sizes = np.abs(np.asarray(seen["log_residual"]))
    resolved = error <= KNOWN * np.maximum(1.0, np.where(np.isfinite(sizes), sizes, 1.0))
    shown = {}
    for name, values in seen.items():
        x = np.asarray(values, float)
        mask = resolved.reshape(*resolved.shape, *[1] * (x.ndim - resolved.ndim))
        shown[name] = np.where(mask, x, np.nan)
    return DepthRun(np.arange(error.shape[-1], dtype=float), shown, resolved, final, draws)


def as_block(block: Block | Recurrent | Callable[[Array], Array]) -> Block | Recurrent:
    """A function of arrays as a block."""
    if isinstance(block, Block | Recurrent):
        return block
    if not callable(block):
        raise ValueError(f"{block!r:.100} is no block: give a depth.Block or a function of X.")
    return Plain(block)


def advance(block: Block | Recurrent, tokens: Tokens, memory: PyTree) -> tuple[Tokens, PyTree]:
    """One layer, and what it hands on."""
    if isinstance(block, Recurrent):
        return block(tokens, memory)
    return block(tokens), memory


def _handed(block: Block | Recurrent, tokens: Tokens) -> PyTree:
    return block.memory(tokens) if isinstance(block, Recurrent) else None


def _course(network, start, names, key):
    """Observables and rounding at every layer, and the tokens at the end."""
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    tokens = start if isinstance(start, Tokens) else Tokens.of(start(keys[0]))

    def look(tokens, block):
        seen = {name: read(tokens, block) for name, read in names.items()}
        # NaN where anything is
        ends = jnp.sum(tokens.mean) + jnp.sum(tokens.deviation)
        lost = jnp.isnan(ends) | jnp.isnan(tokens.log_mean) | jnp.isnan(tokens.log_size)
        return seen, jnp.where(lost, jnp.nan, tokens.rounding)

    layers = _layers(network, tokens, keys[1])
    if layers is None:
        records, memory = [], None
        for k, each in enumerate(network):
            block = as_block(each)
            if isinstance(block, Recurrent) and (k == 0 or memory is None):
                memory = block.memory(tokens)
            records.append(look(tokens, block))
            tokens, memory = advance(block, tokens, memory)
        records.append(look(tokens, as_block(network[-1])))
        seen, rounding = jax.tree.map(lambda *x: jnp.stack(x), *records)
        return seen, rounding, tokens
    each, made = layers
    first, last = (made(_entry(each, k)) for k in (0, -1))

    def layer(state, k):
        tokens, memory = state
        block = made(k)
        seen = look(tokens, block)
        return advance(block, tokens, memory), seen

    (tokens, _), (seen, rounding) = jax.lax.scan(layer, (tokens, _handed(first, tokens)), each)
    ends = look(tokens, last)
    seen, rounding = jax.tree.map(
        lambda course, end: jnp.concatenate([course, end[None]]), (seen, rounding), ends
    )
    return seen, rounding, tokens


def _layers(network, tokens, key):
    """What a scan goes over and the block of each entry; None for blocks of several kinds."""
    if isinstance(network, Fresh):
        keys = jax.random.split(random_key(key), network.layers)
        return keys, lambda k: as_block(network.make(k))
    if isinstance(network, Repeated):
        block = as_block(network.block)
        return jnp.arange(network.layers), lambda _: block
    if (alike := _alike(network, tokens)) is None:
        return None
    each, rest = alike
    return each, lambda arrays: eqx.combine(arrays, rest)


def _entry(each, k):
    return jax.tree.map(lambda x: x[k], each)


def _alike(network, tokens):
    """Blocks of a sequence that differ in numbers alone, stacked, and what they share; or None."""
    blocks = [as_block(each) for each in network]
    parts = [eqx.partition(block, eqx.is_array) for block in blocks]
    _, shared = parts[0]
    kinds = [jax.tree.map(lambda x: (x.shape, str(x.dtype)), a) for a, _ in parts]
    if len(network) < 3 or any(k != kinds[0] for k in kinds[1:]):
        return None
    if not all(eqx.tree_equal(rest, shared) is True for _, rest in parts[1:]):
        return None
    moved, _ = jax.eval_shape(lambda t: advance(blocks[0], t, _handed(blocks[0], t)), tokens)
    if jax.tree.map(jnp.shape, moved) != jax.tree.map(jnp.shape, tokens):
        return None
    return jax.tree.map(lambda *x: jnp.stack(x), *(a for a, _ in parts)), shared


@eqx.filter_jit
def _one(network, start, names, key):
    return _course(network, start, names, key)


@eqx.filter_jit
def _many(network, start, names, keys):
    return jax.lax.map(lambda key: _course(network, start, names, key), keys)


def _side_by_side(network, start, names, keys, number: int):
    """Draws one after the other, in as many threads as there are cores."""
    layers = len(network) if isinstance(network, tuple) else network.layers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    # each thread compiles for itself
    workers = min(cores, number) if number * layers >= _MANY else 1
    size = -(-number // workers)
    rows = [np.minimum(np.arange(k, k + size), number - 1) for k in range(0, number, size)]
    if len(rows) == 1:
        return _many(network, start, names, keys)
    with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
        work = [pool.submit(_ready, network, start, names, keys[row]) for row in rows]
        parts = [each.result() for each in work]
    return jax.tree.map(lambda *x: jnp.concatenate(x)[:number], *parts)


def _ready(network, start, names, keys):
    return jax.block_until_ready(_many(network, start, names, keys))
