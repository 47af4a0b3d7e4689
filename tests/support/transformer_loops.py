"""Transformers in plain NumPy, one token, one head, one pair of tokens at a time."""

import math

import jax
import numpy as np

from gflow.models import DiagonalAttention, LinearAttention, MultiHeadAttention


def norm(x):
    return x / math.sqrt(np.mean(x**2) + 1e-6)


def gelu(x):
    # tanh form, the default of jax.nn.gelu
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def heads(attention):
    """(K, O) of every head: the logit of query i and key j is x_i K x_j, what j gives x_j O."""
    if isinstance(attention, MultiHeadAttention):
        q, k, v, p = (
            np.asarray(getattr(attention, name)) for name in ("query", "key", "value", "output")
        )
        width = math.sqrt(q.shape[1])
        return [(q[h].T @ k[h] / width, v[h].T @ p[h].T) for h in range(len(q))]
    kq, vo = np.asarray(attention.kq.value), np.asarray(attention.vo.value)
    if isinstance(attention, DiagonalAttention):
        kq, vo = ([np.diag(row) for row in x] for x in (kq, vo))
    return [(attention.scale * a, b) for a, b in zip(kq, vo, strict=True)]


def attended(attention, rows):
    changes = []
    for i, row in enumerate(rows):
        seen = rows[: i + 1] if attention.causal else rows
        change = np.zeros_like(row)
        for kq, vo in heads(attention):
            weights = [row @ kq @ other for other in seen]
            if not isinstance(attention, LinearAttention):
                weights = np.exp(weights) / np.sum(np.exp(weights))
            for w, other in zip(weights, seen, strict=True):
                change = change + w * (other @ vo)
        changes.append(change)
    return changes


def through(perceptron, row):
    w, v = np.asarray(perceptron.inner), np.asarray(perceptron.outer)
    b, c = (
        0.0 if x is None else np.asarray(x)
        for x in (perceptron.inner_bias, perceptron.outer_bias)
    )  # fmt: skip
    return v @ gelu(w @ row + b) + c


def block(layer, rows):
    """What a Block makes of tokens."""
    n = norm if layer.norm is not None else lambda x: x
    if layer.attention is not None:
        change = attended(layer.attention, [n(row) for row in rows])
        rows = [r + c for r, c in zip(rows, change, strict=True)] if layer.residual else change
    if layer.perceptron is not None:
        change = [through(layer.perceptron, n(row)) for row in rows]
        rows = [r + c for r, c in zip(rows, change, strict=True)] if layer.residual else change
    return rows


def read(model, row):
    """The logits of one token."""
    bias = 0.0 if model.readout_bias is None else np.asarray(model.readout_bias)
    return np.asarray(model.readout) @ row + bias


def decoder(model, tokens):
    """The logits of a Transformer."""
    rows = [np.asarray(model.embedding)[c] for c in tokens]
    if model.positions is not None:
        rows = [row + np.asarray(model.positions)[i] for i, row in enumerate(rows)]
    for layer in model.layers:
        rows = block(layer, rows)
    return np.array([read(model, norm(r) if model.norm is not None else r) for r in rows])


def vision(model, image):
    """The logits of a VisionTransformer, pixel by pixel."""
    image, p = np.asarray(image), model.patch
    bias = 0.0 if model.embedding_bias is None else np.asarray(model.embedding_bias)
    rows = [] if model.class_token is None else [np.asarray(model.class_token)]
    for top in range(0, image.shape[0], p):
        for left in range(0, image.shape[1], p):
            pixels = []
            for i in range(p):
                for j in range(p):
                    pixels += np.atleast_1d(image[top + i, left + j]).tolist()
            rows.append(np.asarray(model.embedding) @ np.array(pixels) + bias)
    if model.positions is not None:
        rows = [row + np.asarray(model.positions)[i] for i, row in enumerate(rows)]
    for layer in model.layers:
        rows = block(layer, rows)
    rows = [norm(r) if model.norm is not None else r for r in rows]
    return read(model, sum(rows) / len(rows) if model.class_token is None else rows[0])


def moved(model, key):
    """`model` with random numbers added to its plain arrays, so that no bias stays at zero."""
    leaves, tree = jax.tree.flatten(model, is_leaf=lambda x: hasattr(x, "conserved"))
    keys = jax.random.split(key, len(leaves))
    leaves = [
        x + 0.3 * jax.random.normal(k, x.shape) if isinstance(x, jax.Array) else x
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)
