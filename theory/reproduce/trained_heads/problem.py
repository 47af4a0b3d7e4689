"""A transformer that trains whole, its attention from any scale, and how it is trained."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

import gflow
from gflow import observables
from gflow.internal import Objective

Stacked = gflow.models.VisionTransformer | gflow.models.Transformer

PAPER = "arXiv 2306.07042"
#: The weights of an attention whose scale is chosen; all else starts as usual.
WEIGHTS = ("query", "key", "value", "output")
PRODUCTS = {"kq": observables.key_query, "vo": observables.value_output}
SYMBOLS = {"kq": r"$\Delta(W_Q^\top W_K)$", "vo": r"$\Delta(W_V W_O)$"}


class Descent(NamedTuple):
    """Learning rates of SGD and Adam, examples of a minibatch, and steps of both."""

    sgd: float
    adam: float
    batch: int
    steps: int


class Problem(NamedTuple):
    """A model from a key, its loss, and the losses at which ranks are read, the last first met.

    `levels` fall; a run of the flow ends at the last of them or at `t1`.
    """

    name: str
    build: Callable[[PRNGKeyArray], Stacked]
    objective: Objective
    levels: tuple[float, ...]
    t1: float
    descent: Descent

    def start(self, seed: int, scale: float) -> Stacked:
        """The model of this seed with all weights of its attentions times `scale`."""
        model = self.build(jax.random.key(seed))

        def weights(m: Stacked) -> list:
            return [getattr(layer.attention, name) for layer in m.layers for name in WEIGHTS]

        return eqx.tree_at(weights, model, [scale * w for w in weights(model)])

    def paths(self, model: Stacked) -> list[str]:
        """Of the attentions of all layers."""
        return [f"layers.{number}.attention" for number in range(len(model.layers))]


def changes(problem: Problem, start: Stacked) -> dict[str, observables.Observable]:
    """Singular values of what every head has learned, by product and layer: "kq 0", "vo 0", …"""
    return {
        f"{name} {number}": observables.spectrum(product(path, since=start))
        for name, product in PRODUCTS.items()
        for number, path in enumerate(problem.paths(start))
    }
