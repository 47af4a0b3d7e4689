"""Laws of attention alone, of uniform attention with a residual, and of masked attention."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from gflow import depth
from theory import depth_collapse

from ... import Report, interval
from ..networks import Trained
from ..problem import VARIANTS, Drawn, Network, Stacked
from ..settings import Settings
from .measure import DONG, WHEN, Course, Courses

NOCI = "Noci et al. 2022, arXiv 2206.03126"
WU = "Wu et al. 2024, arXiv 2405.18781 (abstract)"
#: Ranges of logits in a row: up to the first e^δ − 1 ≤ 2δ, up to the second the cubic law is seen.
PREMISE, SMALL = 1.256, 1e-2
#: Of logarithms that the depth of the network has tripled again and again.
ROUNDING = 1e-9
#: Layers of the masked network, and from which on its slope is read.
MASKED = (60, 20)


class Cubes(NamedTuple):
    """ln‖R‖ after each layer (inputs, layers), its bounds, its cubic law, and ranges of logits.

    `allowed`: what the next order can change of the logarithm of the law.
    """

    after: Float[np.ndarray, "inputs layers"]
    frobenius: Float[np.ndarray, "inputs layers"]
    paper: Float[np.ndarray, "inputs layers"]
    paper_after: Float[np.ndarray, "inputs layers"]
    law: Float[np.ndarray, "inputs layers"]
    ranges: Float[np.ndarray, "inputs layers"]
    allowed: Float[np.ndarray, "inputs layers"]


def cubes(model: Stacked, course: Course, seed: int) -> Cubes:
    """From the weights of a network of attention alone and the R that comes to each layer."""
    directions, sizes = course.directions[seed], course.sizes[seed]
    inputs, depths = sizes.shape
    found = np.zeros((7, inputs, depths - 1))
    for layer, block in enumerate(depth.layers_of(model)):
        qk, values, scale = _weights(block)
        frobenius = depth_collapse.log_cubic_factor(qk, values, scale)
        beta = max(_one(w) * _mixed(v) for w, v in zip(qk, values, strict=True))
        paper = float(depth_collapse.log_residual_bound(1, beta, len(qk), 1, 1.0))
        paper += math.log(scale)
        for k in range(inputs):
            r, size, after = directions[k, layer], sizes[k, layer], sizes[k, layer + 1]
            means = np.exp(scale * size_of(size) * (course.common[seed, k, layer] @ qk) @ r.T)
            law, next_order = _cubic(r, qk, values, scale, means / means.sum(axis=1, keepdims=True))
            logits = scale * np.einsum("id,hde,je->hij", r, qk, r)
            spread = np.log(np.max(np.ptp(logits, axis=-1))) + 2.0 * size
            share = next_order * size_of(2.0 * size)
            found[:, k, layer] = (
                after,
                frobenius + 3.0 * size,
                paper + 3.0 * (math.log(_mixed(r)) + size),
                math.log(_mixed(directions[k, layer + 1])) + after,
                math.log(law) + 3.0 * size,
                size_of(spread),
                share / (1.0 - share) if share < 1.0 else np.inf,
            )
    return Cubes(*found)


def size_of(log: float) -> float:
    return math.exp(min(log, 300.0))


def _cubic(
    r: np.ndarray, qk: np.ndarray, values: np.ndarray, scale: float, weights: np.ndarray
) -> tuple[float, float]:
    """‖Σ_h p∘(E − Ep1ᵀ)R W_V‖ less its mean, and what the next order is of it at most.

    p = `weights` (heads, keys) is the attention of the mean token. With ε = E − Ep1ᵀ, |ε| ≤ δ_i,
    the weights are p(1 + ε) up to pδ²e^{2δ}; at the range of 0.01 that is read e^{2δ} < 1.03.
    """
    law, rest = np.zeros((len(r), values.shape[-1])), 0.0
    for w, v, p in zip(qk, values, weights, strict=True):
        logits = scale * r @ w @ r.T
        law += (p * (logits - (logits @ p)[:, None])) @ r @ v
        ranges = np.ptp(logits, axis=1)
        furthest = np.max(np.linalg.norm(r, axis=1))
        rest += 1.03 * np.linalg.norm(ranges**2) * furthest * np.linalg.norm(v, 2)
    size = float(np.linalg.norm(law - law.mean(axis=0)))
    return size, float(rest) / size


def _weights(block: depth.Block) -> tuple[np.ndarray, np.ndarray, float]:
    """W_QK and W_V of every head, and the scale of the logits."""
    attention = block
    while isinstance(attention, depth.Chain):
        (attention,) = attention.blocks
    assert isinstance(attention, depth.Attention)
    query, key = np.asarray(attention.query), np.asarray(attention.key)
    return query @ key.swapaxes(-1, -2), np.asarray(attention.value), float(attention.scale)


def _one(x: np.ndarray) -> float:
    return float(np.linalg.norm(x, 1))


def _mixed(x: np.ndarray) -> float:
    """‖x‖_{1,∞} = √(‖x‖₁‖x‖_∞)."""
    return math.sqrt(np.linalg.norm(x, 1) * np.linalg.norm(x, np.inf))


def attention_alone(
    report: Report, network: Network, trained: Trained, found: Courses
) -> dict[str, list[Cubes]]:
    """Both bounds and the cubic law on all seeds, inputs and layers where their premises hold."""
    pairs, courses = trained["attention-alone"], found["attention-alone"]
    seen = {
        when: [cubes(getattr(pair, when), courses[when], k) for k, pair in enumerate(pairs)]
        for when in WHEN
    }
    for when, each in seen.items():
        every = Cubes(*(np.concatenate(values) for values in zip(*each, strict=True)))
        where = f"attention alone on {network.name}, {when}"
        _below(report, f"bound.{network.name}.{when}", every.after - every.frobenius, every.ranges,
               f"ln‖R‖ of a layer less its bound from the weights, {where}")  # fmt: skip
        _below(report, f"bound.{network.name}.{when}.paper", every.paper_after - every.paper,
               every.ranges, f"the same in the norms of the paper, {where}")  # fmt: skip
        small = every.ranges <= SMALL
        miss = np.abs(every.after - every.law)[small]
        allowed = np.maximum(every.allowed[small], ROUNDING)
        worst = np.argmax(miss / allowed) if miss.size else 0
        report.add(
            f"cubic.{network.name}.{when}", 0.0, float(miss[worst]) if miss.size else 0.0,
            float(allowed[worst]) if miss.size else 0.0, paper=DONG,
            undecided=None if miss.size else f"no layer has logits within {SMALL} of each other",
            text=f"ln‖R‖ of a layer less that of its first order in the logits, {where}: the worst "
            f"of {miss.size} layers and inputs with logits within {SMALL}; allowed is the second",
        )  # fmt: skip
    return seen


def _below(report: Report, key: str, over: np.ndarray, ranges: np.ndarray, text: str) -> None:
    known = ranges <= PREMISE
    worst = float(np.max(over[known])) if np.any(known) else np.nan
    report.add(
        key, 0.0, max(worst, 0.0) if np.any(known) else 0.0, ROUNDING, paper=DONG,
        undecided=None if np.any(known) else f"no layer has logits within {PREMISE} of each other",
        text=f"{text}: its excess, {np.sum(known)} of {known.size} layers and inputs have the "
        f"premise, of which the nearest is {-worst:.1f} below",
    )  # fmt: skip


class Uniform(NamedTuple):
    """1 − ρ over layers and half of its 99.7 % interval, by kind of layer; what is predicted."""

    measured: dict[str, tuple[np.ndarray, np.ndarray]]
    predicted: np.ndarray


def mean_field(report: Report, network: Network, settings: Settings) -> Uniform:
    """Fresh layers of the transformer on one input: uniform attention has the premise."""
    start = network.start("whole", 0).embedded(network.held_out.inputs[0])
    x = np.asarray(start)
    n, layers = len(x), settings.layers
    depths = np.arange(layers + 1)
    sizes = depth_collapse.norms(
        depths, n, 1.0, 0.0, float(np.sum(np.sum(x, axis=0) ** 2)), float(np.sum(x**2))
    )
    predicted = 1.0 - (sizes.total - sizes.size) / ((n - 1) * sizes.size)
    kinds = {
        "uniform": lambda key: _layer(network, key, norm=None, hidden=None, uniform=True),
        "own queries": lambda key: _layer(network, key, norm=None, hidden=None),
        "whole": lambda key: _layer(network, key),
    }
    measured = {}
    for kind, make in kinds.items():
        run = depth.follow(
            depth.Fresh(make, layers), start, key=jax.random.key(0), draws=settings.networks
        )
        size, apart = (np.exp(2.0 * run.observables[k]) for k in ("log_norm", "log_residual"))
        ratio = np.mean(apart, axis=0) / np.mean(size, axis=0)
        spread = np.std(apart - ratio * size, axis=0, ddof=1) / np.mean(size, axis=0)
        factor = n / (n - 1) / np.sqrt(settings.networks)
        measured[kind] = (n / (n - 1) * ratio, 3.0 * factor * spread)
    value, bar = (x[-1] for x in measured["uniform"])
    report.add(
        f"mean-field.{network.name}", float(predicted[-1]), float(value),
        0.2 * float(predicted[-1]), float(bar), paper=NOCI,
        text=f"1 − ρ after {layers} layers at the start, {settings.networks} networks with "
        "W_Q = 0, no norms and no MLPs: attention is uniform; a fifth tells α₁ = 1 from 1/√2",
    )  # fmt: skip
    others = (f"{k} {measured[k][0][-1]:.3f} ± {measured[k][1][-1]:.3f}" for k in measured)
    report.say(
        f"{network.name}, 1 − ρ after {layers} layers at the start: {', '.join(others)}; predicted "
        f"{predicted[-1]:.3f} for uniform attention. With queries of its own attention is not "
        "uniform, and norms and MLPs keep neither norms nor inner products: the premise fails."
    )
    return Uniform(measured, predicted)


def _layer(network: Network, key: PRNGKeyArray, uniform: bool = False, **parts) -> depth.Block:
    """A fresh layer as a block."""
    model = network.build(key, layers=1, **parts)
    if uniform:

        def query(m):
            return m.layers[0].attention.query

        model = eqx.tree_at(query, model, jnp.zeros_like(query(model)))
    return depth.layers_of(model)[0]


class Masked(NamedTuple):
    """ln(1 − ρ) of masked attention alone, mean over networks and half of its 95 % interval."""

    mean: Float[np.ndarray, " depths"]
    half: Float[np.ndarray, " depths"]


def masked(report: Report, network: Network, settings: Settings) -> Masked:
    """Attention to no later token does not cube: 1 − ρ falls by (1/2)² a layer."""
    start = Drawn(network.start("attention-alone", 0), network.held_out.inputs)
    layers, first = MASKED
    fresh = depth.Fresh(lambda key: _layer(network, key, **VARIANTS["attention-alone"]), layers)
    run = depth.follow(fresh, start, key=jax.random.key(1), draws=settings.draws)
    apart = run.observables["log_apart"]
    slopes = (apart[:, -1] - apart[:, first]) / (layers - first)
    slope = interval(slopes[np.isfinite(slopes)])
    report.add(
        f"masked.{network.name}", -2.0 * math.log(2.0), slope.mean, 0.2, slope.half, paper=WU,
        text=f"change of ln(1 − ρ) by a layer of masked attention alone at the start, layers "
        f"{first} to {layers} of {settings.draws} networks: uniform masked attention has "
        "eigenvalues 1, 1/2, 1/3, …; that of 1/3 would be −2.2",
    )  # fmt: skip
    each = [interval(values[np.isfinite(values)]) for values in apart.T]
    return Masked(*(np.array(x) for x in zip(*each, strict=True)))
