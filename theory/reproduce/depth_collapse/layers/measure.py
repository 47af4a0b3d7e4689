"""How fast tokens become equal, and what that does to the gradients."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gflow import depth
from theory import depth_collapse

from ... import Report
from ..problem import TOKENS, WIDTH, Mixing
from ..settings import Settings

DONG = "Dong, Cordonnier, Loukas 2021, arXiv 2103.03404"
LAYERS = 16
SCALES = {"one": 1.0, "root": 1.0 / math.sqrt(LAYERS)}


class Residuals(NamedTuple):
    """By scale of the residual: 1 − ρ over layers, measured, three standard errors, predicted."""

    found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


class Gradients(NamedTuple):
    """1 − ρ, and ‖∂S/∂W_Q‖² and ‖∂S/∂W_V‖² measured and predicted, a row a layer."""

    apart: np.ndarray
    queries: np.ndarray
    values: np.ndarray


def cubes(report: Report) -> np.ndarray:
    """ln ‖R_l‖ in attention alone: slope 3, and its constant."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(TOKENS, 16))
    query, key, value = 0.35 * rng.normal(size=(3, 16, 16))
    block = depth.Attention(query, key, value)
    run = depth.follow(depth.Repeated(block, 40), 0.5 * x)
    log = run.observables["log_residual"]
    slopes = np.diff(log[1:])[1:] / np.diff(log[1:])[:-1]
    # what is left of the start falls by threes as well
    report.add(
        "attention.slope", 3.0, float(slopes[-1]), 1e-6, 1e-12, paper=DONG,
        text="ln ‖R‖ of a layer over that of the one before, layer 40 of attention alone",
    )  # fmt: skip
    size = 1e-3
    near = np.mean(x, axis=0) + size * (x - np.mean(x, axis=0))
    law = depth_collapse.cubic_residual(near, query @ key.T, value, 0.25)
    once = depth.follow([block], near).observables["log_residual"][1]
    report.add(
        "attention.constant", math.log(np.linalg.norm(law)), float(once), 20.0 * size, 1e-9,
        paper=DONG, text="ln ‖R‖ after one layer, from ‖R‖/‖X‖ ~ 1e-3: (scale/n) R W_QK RᵀR W_V",
    )  # fmt: skip
    return log


def residuals(report: Report, settings: Settings) -> Residuals:
    """1 − ρ_l as a ratio of means over random networks."""
    start = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, TOKENS)))[0].T
    found = {}
    for name, scale in SCALES.items():
        run = depth.follow(
            depth.Fresh(Mixing(jnp.asarray(scale)), LAYERS), start, key=jax.random.key(2),
            draws=settings.draws,
        )  # fmt: skip
        squares = np.exp(2.0 * run.observables["log_norm"])
        between = np.exp(2.0 * run.observables["log_residual"])
        ratio = np.mean(between, axis=0) / np.mean(squares, axis=0)
        spread = np.std(between - ratio * squares, axis=0, ddof=1) / np.mean(squares, axis=0)
        factor = TOKENS / (TOKENS - 1)
        bars = 3.0 * factor * spread / math.sqrt(settings.draws)
        measured = factor * ratio
        expected = 1.0 - depth_collapse.correlation(np.arange(LAYERS + 1), TOKENS, scale)
        for layer in (LAYERS // 2, LAYERS):
            report.add(
                f"residual.{name}.layer{layer}", float(expected[layer]), float(measured[layer]),
                0.2 * float(expected[layer]), float(bars[layer]),
                text=f"1 − ρ after {layer} layers of α₁ = {scale:.4g}, {settings.draws} networks; "
                "a fifth tells α₁ from α₁/√2",
            )  # fmt: skip
        found[name] = measured, bars, expected
    return Residuals(found)


def gradients(report: Report) -> Gradients:
    """Gradients of one head at W_Q = 0, on tokens that have come through so many layers."""
    d, width, rng = 12, 6, np.random.default_rng(3)
    x = rng.normal(size=(6, d))
    x = x / np.linalg.norm(x)  # a head sees tokens of one norm
    apart, queries, values = [], [], []
    for _ in range(10):
        wk, wv = rng.normal(size=(2, d, width)) / math.sqrt(d)
        found = _squares(jnp.zeros((d, width)), jnp.asarray(wk), jnp.asarray(wv), jnp.asarray(x))
        exact = depth_collapse.query_gradient(x, wk, wv, width)
        queries.append((float(found[0]), exact))
        values.append((float(found[1]), depth_collapse.value_gradient(x, width)))
        tokens = depth.Tokens.of(x)
        apart.append(float(np.exp(depth.log_apart(tokens, depth.LayerNorm()))))
        x = x + np.mean(x, axis=0) @ rng.normal(size=(d, d)) / math.sqrt(d)
        x = x / np.linalg.norm(x)
    pairs = {"queries": np.array(queries), "values": np.array(values)}
    for name, pair in pairs.items():
        worst = int(np.argmax(np.abs(pair[:, 0] / pair[:, 1] - 1.0)))
        report.add(
            f"gradient.{name}", pair[worst, 1], pair[worst, 0], 1e-10 * pair[worst, 1],
            1e-12 * pair[worst, 1], text=f"‖∂S‖² of one draw by {name}, the worst of ten layers",
        )  # fmt: skip
    same = np.tile(x[:1], (6, 1))
    found = _squares(jnp.asarray(wk), jnp.asarray(wk), jnp.asarray(wv), jnp.asarray(same))
    report.add(
        "gradient.equal-tokens", 0.0, float(found[0]), 1e-24, 1e-26,
        text="‖∂S/∂W_Q‖² of equal tokens, W_Q ≠ 0",
    )  # fmt: skip
    return Gradients(np.array(apart), pairs["queries"], pairs["values"])


@jax.jit
def _squares(wq, wk, wv, x):
    def head(wq, wv):
        return jax.nn.softmax(x @ wq @ wk.T @ x.T / math.sqrt(wk.shape[1])) @ x @ wv

    by_query, by_value = jax.jacobian(head, (0, 1))(wq, wv)
    return jnp.sum(by_query**2), jnp.sum(by_value**2)
