"""Transformers trained in stacks, and one that reads text: decay on attention or on the MLP.

A stack holds one start under many decays. The loss is the sum over its members, and Adam acts
entry by entry, so that each is trained as if it were alone, in one compiled call.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree
from scipy.stats import t as student_t

import gflow
from gflow import models, tasks
from gflow.objectives import CrossEntropy
from gflow.plot import COLOURS

from .... import weight_decay as theory
from ..._report import Report
from ...exact_linear.runs import new_figure

#: Singular values of W_KᵀW_Q and P W_V above this count. Tokens enter with norm √d, about 6: a
#: smaller one moves a logit by less than 0.1 and the residual stream by less than 0.06.
THRESHOLD = 0.01
RATE = 3e-3
PRODUCTS = {"kq": "$W_K^TW_Q$", "vo": "$PW_V$"}
LENGTH, BATCH = 64, 16
#: λ by the name of the part that decays, one a member.
Rates = dict[str, np.ndarray]


class Members(eqx.Module):
    """The loss of a stack of independent models, summed."""

    inputs: Int[Array, "examples length"]
    targets: Int[Array, "examples length"]

    def __call__(self, stacked: models.Transformer) -> Float[Array, ""]:
        loss = CrossEntropy(self.inputs, self.targets, "token_mean")
        return jnp.sum(eqx.filter_vmap(loss)(stacked))


def stack(count: int, seed: int, **sizes: int) -> models.Transformer:
    """`count` copies of one random start, in float32."""
    model = models.Transformer(key=jax.random.key(seed), **sizes)
    return jax.tree.map(lambda x: jnp.broadcast_to(x.astype("float32"), (count, *x.shape)), model)


def adam(coupled: Rates, decoupled: Rates) -> optax.GradientTransformation:
    """Adam with λ·w in its gradient (`coupled`, L2), and AdamW (`decoupled`)."""
    return optax.chain(
        _decay(coupled), optax.scale_by_adam(0.9, 0.95), _decay(decoupled), optax.scale(-RATE)
    )


def _decay(rates: Rates) -> optax.GradientTransformation:
    def update(updates: PyTree, params: PyTree) -> PyTree:
        def leaf(path, change, weight):
            for part, rate in rates.items():
                if part in jax.tree_util.keystr(path):
                    column = jnp.asarray(rate, weight.dtype).reshape(-1, *(1,) * (weight.ndim - 1))
                    change = change + column * weight
            return change

        return jax.tree_util.tree_map_with_path(leaf, updates, params)

    return optax.stateless(update)


def per_head(stacked: models.Transformer, start: models.Transformer) -> dict[str, np.ndarray]:
    """(members, heads of all layers): rank, and imbalance and gap relative to their start."""
    found: dict[str, np.ndarray] = {}
    for name in PRODUCTS:
        now, then = (
            [
                np.concatenate([np.asarray(x.attention.pairs[name][i], float) for x in m.layers], 1)
                for i in range(2)
            ]
            for m in (stacked, start)
        )
        s = np.linalg.svd(now[0] @ now[1].mT, compute_uv=False)
        found[f"{name} rank"] = np.sum(s > THRESHOLD, axis=-1)
        for what, measure in (("imbalance", imbalance), ("gap", theory.gap)):
            found[f"{name} {what}"] = measure(*now) / measure(*then)
    return found


def imbalance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """‖AᵀA − BᵀB‖ of every head."""
    return np.linalg.norm(left.mT @ left - right.mT @ right, axis=(-2, -1))


def interval(samples: np.ndarray) -> np.ndarray:
    """Mean over the leading axis (seeds) and the ends of a 95 % interval (NaN from one seed)."""
    n, mean = len(samples), np.mean(samples, axis=0)
    if n < 2:
        return np.stack([mean, mean + np.nan, mean + np.nan])
    half = np.std(samples, axis=0, ddof=1) / math.sqrt(n) * student_t.ppf(0.975, n - 1)
    return np.stack([mean, mean - half, mean + half])


def collected(runs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """`interval` over seeds of every mean over heads; of its logarithm where it spans decades."""
    found = {}
    for name in runs[0]:
        x = np.array([run[name] for run in runs])
        x = x.mean(axis=-1) if x.ndim == 3 else x
        decades = name.endswith(("imbalance", "gap"))
        found[name] = np.exp(interval(np.log(x))) if decades else interval(x)
    return found


def curve(ax, decays: np.ndarray, table: np.ndarray, **style) -> None:
    """Means and intervals of `collected` against λ."""
    mean, low, high = table
    ax.errorbar(decays, mean, [mean - low, high - mean], ms=4.5, mfc="white", lw=1.4, capsize=2,
                **style)  # fmt: skip


def decay_axis(ax, ylabel: str, decays: np.ndarray) -> None:
    """λ with a place for 0, marked where it was run."""
    ax.set_xscale("symlog", linthresh=decays[1], linscale=0.5)
    powers = [rf"$10^{{{math.log10(x):.0f}}}$" if 0 < x < 1e-3 else f"{x:g}" for x in decays]
    ax.set_xticks(decays, powers)
    ax.minorticks_off()
    ax.set(xlabel=r"weight decay $\lambda$", ylabel=ylabel)


def rank_label(name: str) -> str:
    return rf"rank of {PRODUCTS[name]}, $\#\{{s_i > {THRESHOLD:g}\}}$"


def sign_row(report: Report, key: str, label: str, change: float) -> None:
    """A prediction of direction only: more decay, lower rank."""
    report.add(f"{key}.rank-falls", -1.0, float(np.sign(change)), 0.0,
               text=f"{label}: sign of the change of the mean rank")  # fmt: skip


def _trained(
    start: PyTree, rule: optax.GradientTransformation, source: tasks.Text, seed: int, steps: int
) -> tuple[PyTree, np.ndarray]:
    """Train on fresh random windows of the text in every step; the held-out loss of each member."""
    held_out = source.windows(LENGTH, count=256, key=jax.random.key(99), held_out=True)
    keys = jax.random.split(jax.random.key(seed), steps)

    def sampler(objective, key, step):
        batch = source.windows(LENGTH, count=BATCH, key=keys[step])
        return Members(batch.inputs, batch.labels)

    run = gflow.descend(
        start, Members(held_out.inputs, held_out.labels), optimizer=rule, steps=steps,
        batch=sampler, key=jax.random.key(seed), save_every=steps, allow_float32=True,
    )  # fmt: skip
    return run.final, np.asarray(eqx.filter_jit(eqx.filter_vmap(held_out))(run.final), float)


def text(report: Report) -> None:
    """Characters of the Python reference, AdamW: rank and validation loss against λ."""
    source = tasks.python_reference()
    seeds, steps = (1, 500) if report.fast else (5, 2000)
    sweep = np.array([0.3, 3.0] if report.fast else [0.1, 0.3, 1.0, 3.0])
    none = np.zeros(len(sweep))
    rates = {
        "attention": np.concatenate([[0.0], sweep, none]),
        "perceptron": np.concatenate([[0.0], none, sweep]),
    }
    rule = adam({}, rates)
    many = 1 + 2 * len(sweep)
    report.settings.update(text_steps=steps, text_seeds=seeds, text="pydoc_data.topics")
    runs = []
    for seed in range(seeds):
        start = stack(many, seed, vocabulary=source.vocabulary, length=LENGTH)
        end, loss = _trained(start, rule, source, seed, steps)
        runs.append(per_head(end, start) | {"loss": loss})
    table = collected(runs)
    groups = {
        "attention": np.arange(1 + len(sweep)),
        "MLP": np.append(0, np.arange(1 + len(sweep), many)),
    }
    report.say(
        f"Text: {len(source.training)} characters of the Python language reference, AdamW, "
        f"{seeds} seeds; ranks of {PRODUCTS['kq']}, {PRODUCTS['vo']} (of 16), held-out loss (nats)",
        *(
            f"  λ = {rates[part][i]:4g} on the {name:9}: {table['kq rank'][0][i]:5.2f} "
            f"{table['vo rank'][0][i]:5.2f}   {table['loss'][0][i]:.4f} "
            f"± {table['loss'][2][i] - table['loss'][0][i]:.4f}"
            for name, part in (("attention", "attention"), ("MLP", "perceptron"))
            for i in groups[name]
        ),
    )
    last = np.array([run["loss"][groups["attention"][-1]] - run["loss"][-1] for run in runs])
    report.say(
        f"Held-out loss at λ = {sweep[-1]:g} on attention less that on the MLP, seed by seed: "
        "mean {:.4f}, from {:.4f} to {:.4f} (95 %)".format(*interval(last))
    )
    for name in PRODUCTS:
        mean = table[f"{name} rank"][0]
        key = f"text.lambda{sweep[-1]:g}.{name}"
        change = mean[groups["attention"][-1]] - mean[0]
        sign_row(report, key, f"λ on attention, {PRODUCTS[name]}", change)
    figure, axes = new_figure(2, 2)
    shown = {"kq rank": rank_label("kq"), "vo rank": rank_label("vo"),
             "loss": "held-out loss (nats a character)",
             "vo gap": rf"gap of {PRODUCTS['vo']} / gap at the start"}  # fmt: skip
    for ax, (quantity, label) in zip(axes.flat, shown.items(), strict=True):
        for (name, members), colour, marker in zip(groups.items(), COLOURS, "os", strict=False):
            curve(ax, np.append(0.0, sweep), table[quantity][:, members], color=colour,
                  marker=marker, label=rf"$\lambda$ on {name}")  # fmt: skip
        decay_axis(ax, label, np.append(0.0, sweep))
        ax.legend(fontsize="x-small")
    for ax in axes.flat[:2]:
        ax.set(ylim=(0, 17), yticks=range(0, 17, 4))
    axes.flat[3].set(yscale="log", ylim=(3e-3, 2))
    figure.suptitle("characters of the Python reference, AdamW, two layers", fontsize=8)
    report.figure(figure, "text")
