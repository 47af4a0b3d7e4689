"""A vision transformer on digits and a decoder of characters, whole and with parts left out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, PRNGKeyArray

import gflow
from gflow.objectives import CrossEntropy

from .settings import Settings

Stacked = gflow.models.VisionTransformer | gflow.models.Transformer

NORM = gflow.models.RMSNorm()
#: What is left out, by name; the whole first.
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "no-residual": {"residual": False},
    "no-norm": {"norm": None},
    "no-mlp": {"hidden": None},
    "attention-alone": {"residual": False, "norm": None, "hidden": None},
}


class Network(NamedTuple):
    """A model from a key and the parts it lacks, its losses, and how it is trained by Adam.

    `chance`: nats an example of what is known without attention, the frequencies of the labels.
    """

    name: str
    build: Callable[..., Stacked]
    training: CrossEntropy
    held_out: CrossEntropy
    rate: float
    batch: int
    causal: bool

    @property
    def chance(self) -> float:
        labels = np.asarray(self.training.labels).ravel()
        shares = np.bincount(labels) / labels.size
        return float(-np.sum(shares * np.log(np.where(shares > 0.0, shares, 1.0))))

    def start(self, variant: str, seed: int) -> Stacked:
        return self.build(jax.random.key(seed), **VARIANTS[variant])

    def trained(self, start: Stacked, seed: int, steps: int) -> Stacked:
        """By Adam on minibatches."""
        switched = Switched.of(start, self.build(jax.random.key(seed)))
        run = gflow.descend(
            switched, self.training, optimizer=optax.adam(self.rate), steps=steps,
            batch=self.batch, key=jax.random.key(seed), save_every=steps,
        )  # fmt: skip
        return run.final.into(start)


class Switched(eqx.Module):
    """A transformer in which residuals, norms and MLPs are switched by data, its layers stacked.

    One program trains all variants and all layers. A part that is off keeps its weights.
    """

    outside: Stacked
    attention: gflow.models.MultiHeadAttention
    perceptron: gflow.models.Perceptron
    residual: Bool[Array, ""]
    norm: Bool[Array, ""]
    mlp: Bool[Array, ""]

    @classmethod
    def of(cls, model: Stacked, whole: Stacked) -> "Switched":
        """The weights of `model`, of perceptrons that it lacks those of `whole`."""
        first = model.layers[0]
        mlp = first.perceptron is not None
        return cls(
            _outside(model), _stacked([layer.attention for layer in model.layers]),
            _stacked([layer.perceptron for layer in (model if mlp else whole).layers]),
            *(jnp.asarray(on) for on in (first.residual, first.norm is not None, mlp)),
        )  # fmt: skip

    def into(self, model: Stacked) -> Stacked:
        """These weights in a model of the same parts."""

        def block(k: int, old: gflow.models.Block) -> gflow.models.Block:
            attention, perceptron = (
                jax.tree.map(lambda x: x[k], part) for part in (self.attention, self.perceptron)
            )
            inner = None if old.perceptron is None else perceptron
            return gflow.models.Block(attention, inner, norm=old.norm, residual=old.residual)

        layers = tuple(block(k, old) for k, old in enumerate(model.layers))
        return eqx.tree_at(
            lambda m: (m.layers, m.norm), self.outside, (layers, model.norm),
            is_leaf=lambda x: x is None,
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        def layer(tokens, parts):
            tokens = self._after(tokens, parts[0])
            return jnp.where(self.mlp, self._after(tokens, parts[1]), tokens), None

        parts = self.attention, self.perceptron
        tokens, _ = jax.lax.scan(layer, self.outside.embedded(x), parts)
        return self.outside.read(self._normed(tokens))

    def _after(self, tokens: Array, part: eqx.Module) -> Array:
        change = part(self._normed(tokens))
        return jnp.where(self.residual, tokens + change, change)

    def _normed(self, tokens: Array) -> Array:
        return jnp.where(self.norm, NORM(tokens), tokens)


def _outside(model: Stacked) -> Stacked:
    """Embedding and readout alone."""
    return eqx.tree_at(lambda m: (m.layers, m.norm), model, ((), None), is_leaf=lambda x: x is None)


def _stacked(parts: list) -> Any:
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *parts)


class Drawn(eqx.Module):
    """From a key the tokens of one of `inputs`, as they come to the first layer."""

    model: Stacked
    inputs: Array

    def __call__(self, key: PRNGKeyArray) -> Array:
        return self.model.embedded(self.inputs[jax.random.randint(key, (), 0, len(self.inputs))])


def digits(settings: Settings) -> Network:
    """16 patches of 2 × 2 pixels."""

    def build(key, **parts):
        return gflow.models.VisionTransformer(
            (8, 8), patch=2, classes=10, key=key, **{**_sizes(settings), **parts}
        )

    task = gflow.tasks.digits()
    return Network("digits", build, task.objective, task.held_out, settings.rate, 64, False)


def text(settings: Settings) -> Network:
    """Windows of SciPy's prose."""
    prose = gflow.tasks.scipy_prose()
    length = settings.length

    def build(key, **parts):
        return gflow.models.Transformer(
            prose.vocabulary, length, key=key, **{**_sizes(settings), **parts}
        )

    training, held_out = (
        prose.windows(length, count=count, key=jax.random.key(k), held_out=bool(k))
        for k, count in enumerate((settings.windows, 128))
    )
    return Network("text", build, training, held_out, settings.rate, 16, True)


def _sizes(settings: Settings) -> dict[str, Any]:
    return {
        "d": settings.d, "heads": 2, "head_width": settings.d // 2, "hidden": 2 * settings.d,
        "layers": settings.layers,
    }  # fmt: skip
