"""Tokens over depth: many random deep networks, and overlaps in closed quadrature.

`layers`: 10³ layers × 64 tokens × 64 dimensions × 64 draws with fresh weights in every layer, by
`gflow.depth` and by a hand-written scan over X, which does not see a collapse. `overlap`: γ(t) at
101 times by quadrature, from a cold table and from a warm one, over the flow of particles.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gflow import depth
from theory import depth_collapse

from .clock import interleaved

TOKENS, BETA, END = 64, 2.0, 10.0


class Layer(depth.Block):
    """From a key, a layer of attention with a residual of 1/√L."""

    width: int
    scale: float

    def __call__(self, key):
        return depth.Residual(depth.Attention.random(self.width, self.width, key=key), self.scale)


def run(quick: bool, say) -> dict[str, Any]:
    """`layers` and `overlap`."""
    say("depth: layers")
    sizes = (50, 16, 16, 4) if quick else (1000, 64, 64, 64)
    found: dict[str, Any] = {"layers": layers(*sizes)}
    say("depth: overlaps")
    found["overlap"] = overlap(1 if quick else 5)
    return found


def layers(number: int, n: int, d: int, draws: int) -> dict[str, Any]:
    """Seconds of a second run."""
    x = np.random.default_rng(0).normal(size=(n, d))
    network = depth.Fresh(Layer(d, 1.0 / math.sqrt(number)), number)
    key = jax.random.key(0)

    @jax.jit
    def by_hand(keys):
        def one(key):
            def layer(x, key):
                q, k, v = (
                    jax.random.normal(part, (d, d)) / math.sqrt(d)
                    for part in jax.random.split(key, 3)
                )
                mixed = jax.nn.softmax(x @ q @ (x @ k).T / math.sqrt(d)) @ (x @ v)
                return x + mixed / math.sqrt(number), None

            return jax.lax.scan(layer, jnp.asarray(x), jax.random.split(key, number))[0]

        return jax.lax.map(one, keys)

    keys = jax.random.split(key, draws)
    calls = {
        "gflow": lambda: depth.follow(network, x, key=key, draws=draws),
        "hand-written scan": lambda: jax.block_until_ready(by_hand(keys)),
    }
    for call in calls.values():
        call()
    times = interleaved(calls, 1)
    return {
        "sizes": [number, n, d, draws],
        **{name: taken.medians for name, taken in times.items()},
    }


def overlap(repetitions: int) -> dict[str, Any]:
    """Seconds of both, and how far the two are apart."""
    times = np.linspace(0.0, END, 101)
    eye = jnp.eye(TOKENS)
    block = depth.OnSphere(depth.Attention(eye, eye, eye, BETA))

    def cold():
        depth_collapse._equal_overlap._table.cache_clear()
        return depth_collapse.equal_overlap(TOKENS, BETA, times)

    calls = {
        "particles": lambda: depth.flow(block, eye, END, save=times),
        "quadrature, cold": cold,
        "quadrature": lambda: depth_collapse.equal_overlap(TOKENS, BETA, times),
    }
    flow = calls["particles"]()
    miss = np.max(np.abs(flow.observables["correlation"] - cold()))
    taken = interleaved(calls, repetitions)
    return {"miss": float(miss), **{name: x.medians for name, x in taken.items()}}


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    if not part:
        return [], []
    most, least = [], []
    if part["layers"]["sizes"] == [1000, 64, 64, 64]:
        most.append(("seconds of 10³ layers × 64 tokens × 64 dimensions × 64 draws", 20.0,
                     part["layers"]["gflow"]["seconds"]))  # fmt: skip
    found = part["overlap"]
    ratio = found["particles"]["cpu_seconds"] / found["quadrature"]["cpu_seconds"]
    least.append(("particle flow over quadrature of γ(t)", 100.0, ratio))
    return most, least


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows."""
    if not part:
        return []
    found = []
    for name in ("layers", "overlap"):
        rows = [
            [what, f"{times['seconds']:.3g}", f"{times['cpu_seconds']:.3g}"]
            for what, times in part[name].items()
            if isinstance(times, dict)
        ]
        found.append((f"Depth, {name}", ["method", "s", "s of CPU"], rows))
    return found
