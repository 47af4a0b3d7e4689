"""Attention under weight decay: a lookup whose end is known, and transformers that recall.

Lookup by one softmax head follows gradient flow, and its rank, its end and its course are
predicted. The transformers are trained by AdamW and by Adam with L2, which obey no exact law;
what is exact for them is one step of plain gradient descent.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow import models, tasks
from gflow.internal import trained_leaves
from gflow.plot import COLOURS

from .... import weight_decay as theory
from ..._report import Report
from ...exact_linear.runs import EXACT, MARGIN, RTOL, SIMULATED, TIME, new_figure
from ...weight_decay.transformers.measure import (
    PRODUCTS,
    RATE,
    Members,
    adam,
    collected,
    curve,
    decay_axis,
    per_head,
    rank_label,
    sign_row,
    stack,
)


class Pair(eqx.Module):
    """Two factors of W = left @ rightᵀ as plain arrays."""

    left: Float[Array, "... m r"]
    right: Float[Array, "... n r"]


def singular_values(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.linalg.svd(left @ right.swapaxes(-1, -2), compute_uv=False)


def flows(pair: Pair, objective, decays, t1, save=None) -> list[gflow.Trajectory]:
    """One start under many decays, in one compiled call."""
    many = len(decays)
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (many, *x.shape)), pair)
    batch = gflow.simulate_batch(
        stacked, objective, t1=t1, decay=np.asarray(decays), rtol=RTOL, save=save,
        error_bars=False,
    )  # fmt: skip
    return list(batch)


def factors(run: gflow.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    return run.observables["left"], run.observables["right"]


class Lookup(eqx.Module):
    """K one-hot tokens: query c must attend to key c. Logits W = A Bᵀ, a column a query."""

    def __call__(self, model: Pair) -> Float[Array, ""]:
        logits = model.left @ model.right.T
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=0)))


def lookup(report: Report) -> None:
    """Softmax attention that looks up one of K = 6 tokens: the rank jumps at λ = 1/K."""
    figure, axes = new_figure(2)
    lookup_ends(report, axes[0])
    lookup_courses(report, axes[1])
    report.figure(figure, "lookup")


def lookup_ends(report: Report, ax) -> None:
    """From a random start, decays on both sides of 1/K."""
    k, width = 6, 8
    rng = np.random.default_rng(2)
    start = Pair(*(jnp.asarray(0.3 * rng.standard_normal((k, width))) for _ in range(2)))
    decays = np.array([0.02, 0.035, 0.05, 0.08, 0.11, 0.13, 0.145, 0.157, 0.18, 0.2, 0.25, 0.3])
    # the slowest deviation has then shrunk by e^-25
    runs = flows(start, Lookup(), decays, 25.0 / theory.lookup_rates(k, decays).slowest)
    found = np.array([singular_values(*(x[-1] for x in factors(run))) for run in runs])
    limits = theory.lookup_logit(k, decays)
    tolerance = MARGIN * np.exp(-25.0) * np.max(limits)
    for decay, s, limit in zip(decays, found, limits, strict=True):
        ends = np.append(np.full(k - 1, limit), 0.0)
        worst = int(np.argmax(np.abs(s - ends)))
        report.add(f"lookup.lambda{decay:g}.singular-values", ends[worst], s[worst], tolerance,
                   text="the singular value farthest from its prediction")  # fmt: skip
        report.add(f"lookup.lambda{decay:g}.rank", float((k - 1) * (limit > 0)),
                   float(np.sum(s > 1e-4)), 0.0, text="rank, #{s > 1e-4}")  # fmt: skip
    report.say(
        "Lookup of K = 6 one-hot tokens by softmax attention, threshold λ = 1/6; λ, predicted "
        "a∞, the six singular values:",
        *(f"  {d:5.3f}  {limit:8.5f}  {' '.join(f'{x:.5f}' for x in s)}"
          for d, limit, s in zip(decays, limits, found, strict=True)),
    )  # fmt: skip
    grid = np.linspace(0.015, 0.31, 400)
    ax.plot(grid, theory.lookup_logit(k, grid), **EXACT, label=r"$\ln(1/\lambda - K + 1)$")
    ax.plot(decays, found[:, 0], "o", color=COLOURS[0], ms=4, label="largest singular value")
    ax.plot(decays, found[:, k - 2], "s", mfc="none", mec=COLOURS[1], ms=7, label="fifth")
    ax.plot(decays, found[:, k - 1], "x", color=COLOURS[2], ms=5, label="sixth")
    ax.axvline(1 / k, color="0.5", ls=(0, (1, 1.5)), lw=1.2)
    ax.text(1 / k, 2.0, r" $\lambda = 1/K$", fontsize="x-small")
    ax.set(xlabel=r"weight decay $\lambda$", ylabel="singular values of $W_K^TW_Q$")
    ax.legend(fontsize="x-small")
    ax.set_title("five singular values vanish together")


def lookup_courses(report: Report, ax) -> None:
    """From A = B = sqrt(a₀) V Oᵀ, VVᵀ = I − 11ᵀ/K and O orthonormal, in time."""
    k, width, small, t1 = 6, 8, 0.05, 150.0
    v = np.linalg.eigh(np.eye(k) - 1.0 / k)[1][:, 1:]
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((width, k - 1)))[0]
    factor = jnp.asarray(np.sqrt(small) * v @ turn.T)
    decays = np.array([0.02, 0.08, 0.13, 0.25])
    runs = flows(Pair(factor, factor), Lookup(), decays, t1)
    for run, decay, colour, marker in zip(runs, decays, COLOURS, "osD^", strict=False):
        a = np.mean(singular_values(*factors(run))[:, : k - 1], axis=1)
        exact = theory.lookup_course(small, k, decay, run.t)
        report.add(f"lookup.lambda{decay:g}.course", 0.0, float(np.max(np.abs(a - exact))),
                   MARGIN * RTOL, text="largest |a(t) − exact| from a simplex start")  # fmt: skip
        fine = np.linspace(0.0, t1, 600)
        ax.semilogy(run.t, a, color=colour, **SIMULATED)
        ax.semilogy(fine, theory.lookup_course(small, k, decay, fine), **EXACT)
        at = np.unique(np.searchsorted(run.t, np.array([8.0, 30.0, 70.0, 110.0])))
        ax.plot(run.t[at], a[at], marker, mfc="white", mec=colour, ms=4.5,
                label=rf"$\lambda = {decay:g}$")  # fmt: skip
    ax.plot([], [], color="0.4", **SIMULATED, label="simulated")
    ax.plot([], [], **EXACT, label="exact")
    ax.set(xlabel=TIME, ylabel=r"$a$ of $W_K^TW_Q = a(I - 11^T/K)$", ylim=(1e-4, 50))
    ax.legend(fontsize="x-small", ncols=3, loc="upper right")
    ax.set_title("from a simplex start")


def one_step(report: Report) -> None:
    """Plain gradient descent: G of every head after a step, from its gradients, to rounding."""
    eta, decay = 0.1, 0.5
    task = tasks.associative_recall(key=jax.random.key(7), examples=32)
    start = models.Transformer(task.vocabulary, task.length, key=jax.random.key(8))
    rates = {name: decay for name in trained_leaves(start) if "attention" in name}
    end = gflow.descend(start, task.objective, learning_rate=eta, steps=1, decay=rates).final
    gradient = eqx.filter_jit(eqx.filter_grad(task.objective))(start)
    for name, label in PRODUCTS.items():
        error = 0.0
        for before, slope, after in zip(start.layers, gradient.layers, end.layers, strict=True):
            a, b, ga, gb = (
                np.asarray(x) for x in before.attention.pairs[name] + slope.attention.pairs[name]
            )
            predicted = theory.descent_imbalance(a, b, ga, gb, eta, decay)
            left, right = (np.asarray(x) for x in after.attention.pairs[name])
            found = left.mT @ left - right.mT @ right
            error = max(error, float(np.max(np.abs(found - predicted)) / np.max(np.abs(found))))
        report.add(f"one-step.{name}.balance", 0.0, error, 1e-12,
                   text=f"one step of gradient descent: largest deviation of G of {label} from "
                   "its exact law, all heads")  # fmt: skip


def recall(report: Report) -> None:
    """AdamW and Adam with L2 beside each other: rank, balance, gap, accuracy against λ."""
    one_step(report)
    fast = report.fast
    seeds, steps, examples = (1, 800, 512) if fast else (3, 2400, 1024)
    sweeps = {
        "AdamW": [0.0, 0.3, 2.0] if fast else [0.0, 0.03, 0.1, 0.3, 1.0, 2.0],
        "Adam + L2": [0.0, 1e-4, 3e-3] if fast else [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 5e-3],
    }
    decays = {name: np.array(x) for name, x in sweeps.items()}
    first = len(decays["AdamW"])
    none = np.zeros(first)
    rule = adam({"attention": np.concatenate([none, decays["Adam + L2"]])},
                {"attention": np.concatenate([decays["AdamW"], none])})  # fmt: skip
    members = {"AdamW": slice(0, first), "Adam + L2": slice(first, 2 * first)}
    report.settings.update(recall_steps=steps, recall_seeds=seeds, learning_rate=RATE)
    runs = []
    for seed in range(seeds):
        for_train, for_test, for_batch = jax.random.split(jax.random.key(seed), 3)
        train = tasks.associative_recall(key=for_train, examples=examples)
        test = tasks.associative_recall(key=for_test, examples=512)
        start = stack(2 * first, seed, vocabulary=train.vocabulary, length=train.length)
        end = gflow.descend(
            start, Members(train.inputs, train.targets), optimizer=rule, steps=steps, batch=64,
            key=for_batch, save_every=steps, allow_float32=True,
        ).final  # fmt: skip
        runs.append(per_head(end, start))
        runs[-1]["accuracy"] = np.array(eqx.filter_vmap(test.objective.accuracy)(end), float)
    table = collected(runs)
    shown = ["kq rank", "vo rank", "kq imbalance", "kq gap", "vo gap", "accuracy"]
    report.say(
        f"Associative recall, {seeds} seeds, {steps} steps; means over heads of {', '.join(shown)}"
        " (imbalance and gap relative to their start):",
        *(
            f"  {name:9} λ = {decay:6g}: " + " ".join(f"{table[q][0][members[name]][i]:8.4f}"
                                                       for q in shown)
            for name in members for i, decay in enumerate(decays[name])
        ),
    )  # fmt: skip
    for name, inside in members.items():
        for product, label in PRODUCTS.items():
            mean = table[f"{product} rank"][0][inside]
            method = name.replace(" + ", "-")
            sign_row(report, f"recall.{method}.lambda{decays[name][-1]:g}.{product}",
                     f"{label} against λ = 0", mean[-1] - mean[0])  # fmt: skip
    _recall_figure(report, decays, members, table, RATE * steps)


def _recall_figure(report: Report, decays, members, table, time: float) -> None:
    figure, axes = new_figure(2, 3)
    labels = {
        "rank": "rank, " + rank_label("kq").split(", ")[1],
        "imbalance": r"$\|A^TA - B^TB\|$ / start",
        "gap": "gap to the nuclear norm / start",
    }
    for column, (name, inside) in enumerate(members.items()):
        x = decays[name]
        for ax, quantity in zip(axes[:, column], labels, strict=True):
            for product, colour, marker in zip(PRODUCTS, COLOURS, "os", strict=False):
                curve(ax, x, table[f"{product} {quantity}"][:, inside], color=colour,
                      marker=marker, label=PRODUCTS[product])  # fmt: skip
            decay_axis(ax, labels[quantity], x)
        if name == "AdamW":
            grid = np.linspace(0.0, x[-1], 200)
            axes[1, 0].plot(grid, np.exp(-2.0 * grid * time), **EXACT,
                            label=r"$e^{-2\lambda t}$ of gradient flow")  # fmt: skip
        accuracy = table["accuracy"][0][inside]
        for at, value in zip(x, accuracy, strict=True):
            axes[0, column].text(at, 19.4, f"{100 * value:.0f} %", ha="center", fontsize="xx-small")
        axes[0, column].set(ylim=(0, 20.5), yticks=range(0, 17, 4))
        axes[0, column].set_title(f"{name}; accuracy above")
        for ax in axes[1:, column]:
            ax.set(yscale="log", ylim=(1e-4, 3))
        for ax in axes[:, column]:
            ax.legend(fontsize="x-small", loc="lower left")
    report.figure(figure, "recall")
