"""Two trained transformers and what they are tuned to: turned digits, another text."""

from collections.abc import Iterator

import jax
import numpy as np
import optax

import gflow
from gflow.internal import Objective, trained_leaves

Network = gflow.models.VisionTransformer | gflow.models.Transformer
RATE, TUNING = 3e-3, 1e-3
ANGLE = 30.0
LENGTH, WINDOWS = 32, 16


def digits(steps: int) -> tuple[Network, Network]:
    """A vision transformer trained on digits, and tuned to digits turned by `ANGLE`."""
    task = gflow.tasks.digits(examples=200)
    model = gflow.models.VisionTransformer(
        (8, 8), patch=4, classes=10, d=16, heads=2, head_width=8, hidden=32, layers=2,
        key=jax.random.key(0),
    )  # fmt: skip
    before = _trained(model, task.objective, RATE, steps)
    return before, _trained(before, task.rotated(ANGLE).objective, TUNING, steps // 5)


def text(steps: int) -> tuple[Network, Network]:
    """A decoder of characters trained on SciPy's prose, and tuned to Python's reference."""
    first, second = gflow.tasks.scipy_prose(), gflow.tasks.python_reference()
    model = gflow.models.Transformer(
        first.vocabulary, LENGTH, d=16, heads=2, head_width=8, hidden=32, layers=2,
        key=jax.random.key(0),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(1))
    before, after = (
        t.windows(LENGTH, count=WINDOWS, key=k) for t, k in zip((first, second), keys, strict=True)
    )
    start = _trained(model, before, RATE, steps)
    return start, _trained(start, after, TUNING, steps // 5)


def _trained(model: Network, objective: Objective, rate: float, steps: int) -> Network:
    run = gflow.descend(
        model, objective, optimizer=optax.adam(rate), steps=steps, save_every=steps,
    )  # fmt: skip
    return run.final


def matrices(before: Network, after: Network) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every weight matrix, head by head, before and after; norms and biases are none."""
    old, new = (trained_leaves(model) for model in (before, after))
    for name, leaf in old.items():
        one, other = np.asarray(leaf), np.asarray(new[name])
        if one.ndim == 2:
            yield name, one, other
        elif one.ndim == 3:
            for head in range(len(one)):
                yield f"{name} {head}", one[head], other[head]
