"""Accuracy against the number of tokens that are left, with + ln m and without."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow import depth

from ... import Interval, Report, signed
from ..networks import Trained
from ..problem import Network
from ..settings import Settings

BOLYA = "Bolya et al. 2023, arXiv 2210.09461 (abstract)"
REDUCTION = "Frequency-aware token reduction, arXiv 2511.21477 (abstract)"
#: Copies of the first patches of an image; resampled images.
COPIES, RESAMPLED = 4, 2000
WAYS = {"counted": True, "forgotten": False}


class Merging(NamedTuple):
    """By way and number of tokens left, of every seed and image: right or not, error of logits.

    `accuracy` of no merger is that at all tokens.
    """

    kept: tuple[int, ...]
    right: dict[str, Float[np.ndarray, "kept seeds images"]]
    errors: dict[str, Float[np.ndarray, "kept seeds images"]]

    def accuracy(self, way: str, k: int) -> Interval:
        """Over images and seeds, resampled."""
        return resampled(self.right[way][k])


def merging(report: Report, network: Network, trained: Trained, settings: Settings) -> Merging:
    """The same images through the trained networks with more and more tokens merged."""
    models = _whole(trained)
    data = network.held_out
    images, labels = data.inputs, np.asarray(data.labels)
    tokens = len(models[0].embedded(images[0]))
    kept = (tokens, *settings.kept)
    exact = [np.asarray(_logits(m, images, (0,) * len(m.layers), True)) for m in models]
    right: dict[str, list] = {way: [] for way in WAYS}
    errors: dict[str, list] = {way: [] for way in WAYS}
    for left in kept:
        pairs = schedule(tokens, left, len(models[0].layers))
        for way, counted in WAYS.items():
            found = [np.asarray(_logits(m, images, pairs, counted)) for m in models]
            right[way].append([np.argmax(x, axis=-1) == labels for x in found])
            errors[way].append(
                [np.linalg.norm(x - y, axis=-1) for x, y in zip(found, exact, strict=True)]
            )
    seen = Merging(
        kept,
        {way: np.array(x, float) for way, x in right.items()},
        {way: np.array(x) for way, x in errors.items()},
    )
    report.say(*_table(seen))
    _claims(report, network, seen)
    return seen


def _whole(trained: Trained) -> list[gflow.models.VisionTransformer]:
    models = [pair.trained for pair in trained["whole"]]
    return [m for m in models if isinstance(m, gflow.models.VisionTransformer)]


def schedule(tokens: int, left: int, layers: int) -> tuple[int, ...]:
    """Pairs merged before each layer but the first, as evenly as halves allow."""
    pairs, now = [0], tokens
    for layer in range(1, layers):
        gone = min(-(-(now - left) // (layers - layer)), now // 2)
        pairs.append(gone)
        now -= gone
    if now != left:
        raise ValueError(f"{layers} layers cannot merge {tokens} tokens to {left} by halves.")
    return tuple(pairs)


def _logits(
    model: gflow.models.VisionTransformer, images: Array, pairs: tuple[int, ...], counted: bool
) -> Float[Array, "images classes"]:
    return through(model, _embedded(model, images), pairs, counted)


def through(
    model: gflow.models.VisionTransformer,
    tokens: depth.Tokens,
    pairs: tuple[int, ...],
    counted: bool,
) -> Float[Array, "images classes"]:
    """Logits of the tokens of images, of which so many pairs are merged before each layer."""
    for gone, layer in zip(pairs, depth.layers_of(model), strict=True):
        if gone:
            tokens = _each(depth.MergeSimilar(gone, counted), tokens)
        tokens = _each(layer, tokens)
    return _read(model, tokens)


@eqx.filter_jit
def _embedded(model: gflow.models.VisionTransformer, images: Array) -> depth.Tokens:
    return jax.vmap(lambda image: depth.Tokens.of(model.embedded(image)))(images)


@eqx.filter_jit
def _each(block: depth.Block, tokens: depth.Tokens) -> depth.Tokens:
    """One program for all layers and networks, at each number of tokens."""
    return jax.vmap(lambda t: block(t))(tokens)


@eqx.filter_jit
def _read(model: gflow.models.VisionTransformer, tokens: depth.Tokens) -> Array:
    return jax.vmap(lambda t: model.read(t.value, t.counts))(tokens)


def resampled(values: Float[np.ndarray, "seeds images"]) -> Interval:
    """Mean over images and seeds, and half of the interval of 95 % of resampled images.

    Images are drawn anew, the seeds of a network kept together on each.
    """
    each = np.mean(values, axis=0)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(each), size=(RESAMPLED, len(each)))
    low, high = np.quantile(np.mean(each[drawn], axis=1), (0.025, 0.975))
    return Interval(float(np.mean(each)), float(0.5 * (high - low)))


def _table(found: Merging) -> list[str]:
    lines = [
        "Trained vision transformers: share of held-out digits right by tokens left after the last "
        "layer, with + ln m, without, and the difference by image with its 95 % interval",
    ]
    for k, left in enumerate(found.kept):
        one, other = (found.accuracy(way, k) for way in WAYS)
        difference = resampled(found.right["counted"][k] - found.right["forgotten"][k])
        sizes = [np.mean(found.errors[way][k]) for way in WAYS]
        lines.append(
            f"  {left:>3} tokens   {one.mean:.3f} ± {one.half:.3f}   {other.mean:.3f} ± "
            f"{other.half:.3f}   {difference.mean:+.4f} ± {difference.half:.4f}   logits off by "
            f"{sizes[0]:.3g}, {sizes[1]:.3g}"
        )
    return lines


def _claims(report: Report, network: Network, found: Merging) -> None:
    """At half of the tokens: what + ln m does to logits, and to accuracy."""
    k = min(range(len(found.kept)), key=lambda k: abs(2 * found.kept[k] - found.kept[0]))
    left = found.kept[k]
    for key, values, paper, text in (
        ("logits", found.errors["forgotten"][k] - found.errors["counted"][k], REDUCTION,
         "error of the logits without + ln m less that with it"),
        ("accuracy", found.right["counted"][k] - found.right["forgotten"][k], BOLYA,
         "share right with + ln m less that without it"),
    ):  # fmt: skip
        signed(
            report, f"merge.{key}.tokens{left}", 1.0, resampled(values),
            f"{text}, {left} of {found.kept[0]} tokens left, {values.shape[0]} networks on "
            f"{values.shape[1]} digits", paper=paper, few="",
        )  # fmt: skip


def copies(report: Report, network: Network, trained: Trained) -> None:
    """Copies of tokens, merged into one before the first layer: nothing changes with + ln m."""
    model = _whole(trained)[0]
    nothing = (0,) * len(model.layers)
    x = np.asarray(model.embedded(network.held_out.inputs[0]))
    n = len(x)
    groups = [*range(n), *[0] * COPIES, *range(1, COPIES)]
    tokens = jax.tree.map(lambda a: a[None], depth.Tokens.of(x[np.array(groups)]))
    exact = np.asarray(through(model, tokens, nothing, True))
    miss = {}
    for way, counted in WAYS.items():
        merged = _each(depth.Merge(groups, counted=counted), tokens)
        logits = np.asarray(through(model, merged, nothing, True))
        miss[way] = float(np.max(np.abs(logits - exact)))
    report.add(
        "merge.copies", 0.0, miss["counted"], 1e-12 * float(np.max(np.abs(exact))),
        paper=REDUCTION,
        text=f"largest change of the logits of a trained network when the copies among "
        f"{len(groups)} tokens are merged to {n}, with + ln m",
    )  # fmt: skip
    report.add(
        "merge.copies.forgotten", 1.0, float(miss["forgotten"] > 1e-3), 0.0, paper=REDUCTION,
        text=f"whether the logits change without + ln m: by {miss['forgotten']:.3g}",
    )  # fmt: skip
