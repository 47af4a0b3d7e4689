"""The whole tanh transformer from ε = 1e-8 through condensation, plateau and rank collapse."""

import math
from typing import Any, NamedTuple

import diffrax
import jax
import numpy as np

import gflow
from gflow.plot import COLOURS

from .... import condensation as co
from ....condensation._measures import stable_rank
from ....condensation._separability import check_not_separable
from ..._report import Report
from ...condensation.key_query_spectra import factors
from ...exact_linear.runs import EXACT, new_figure

EXPONENT, EXAMPLES, TOKENS = 8, 512, 10
#: Norm of the outer weights at the hand-over; that of W_Q at which attention saturates.
OUTER, LEVEL = 0.2, 0.3
NAMES = {"value": "$W_V$", "inner": "$W_1$", "readout": "$W_2$", "query": "$W_Q$", "key": "$W_K$"}
STYLES = dict(zip(NAMES, ("-", "--", ":", "-", "--"), strict=True))
SHADES = dict(zip(NAMES, (0, 0, 0, 1, 1), strict=True))


class Snapshots(NamedTuple):
    """Weights by name at times `t`, and the loss."""

    t: np.ndarray
    loss: np.ndarray
    weights: dict[str, np.ndarray]


def before(out: gflow.Escape) -> Snapshots:
    """The first stage, at no more than 24 of its steps."""
    steps = np.unique(np.linspace(0, len(out.t) - 1, 24).astype(int))
    models = [out.model(i) for i in steps]
    weights = {
        name: np.stack([np.asarray(getattr(m, name).value) for m in models])
        for name in ("value", "inner", "readout")
    }
    scaled = [
        [np.asarray(x) * np.exp(np.asarray(m.kq.log_scale)) for x in (m.kq.left, m.kq.right)]
        for m in models
    ]
    weights["query"], weights["key"] = (np.stack(x) for x in zip(*scaled, strict=True))
    return Snapshots(out.t[steps], out.loss[steps], weights)


def after(runs: list[gflow.Trajectory]) -> Snapshots:
    """The second stage, at no more than 60 times of each run."""
    parts = []
    for run in runs:
        at = np.unique(np.linspace(0, len(run.t) - 1, 60).astype(int))
        leaves = {name: leaf.at(at) for name, leaf in run.leaves.items()}
        weights = {name: leaves[name]["value"] for name in ("value", "inner", "readout")}
        weights["query"], weights["key"] = factors(leaves["kq"])
        parts.append((run.t[at], run.loss[at], weights))
    t, loss, weights = zip(*parts, strict=True)
    joined = {name: np.concatenate([w[name] for w in weights]) for name in weights[0]}
    return Snapshots(np.concatenate(t), np.concatenate(loss), joined)


def both_stages(report: Report) -> None:
    """Escape time, time until attention saturates, and ranks, with what predicts them."""
    d, rtol = (16, 1e-7) if report.fast else (64, 1e-7)
    eps = 10.0**-EXPONENT
    data = gflow.tasks.attention_labels(EXAMPLES, TOKENS, d, key=jax.random.key(4))
    x, y = np.asarray(data.inputs), np.asarray(data.labels)
    check_not_separable(x, y)
    model: Any = gflow.models.LastTokenTransformer.small(
        d, d, log_epsilon=math.log(eps), key=jax.random.key(0)
    )
    v, m = co.condensation_direction(x, y)
    start = v @ np.asarray(model.value.array), model.inner.array, model.readout.array
    limit = co.blow_up_limit(*(np.asarray(w) for w in start))
    time = limit.time
    out = gflow.escape(model, data.objective, level=OUTER, rtol=rtol)
    escape = float(co.escape_time(time, eps, m, OUTER))
    # the second term is a share ε/(wT*); what is neglected is smaller by w²
    report.add(f"tanh-model.d{d}.escape-time", escape, out.t[-1], escape * eps / time,
               out.at_norm(0.99 * OUTER).error, unit="flow time",
               text=f"time to norm {OUTER:g} of the outer weights")  # fmt: skip
    value = np.asarray(out.final.value.value)
    rest = np.asarray(model.value.value) - np.outer(v, v @ np.asarray(model.value.value))
    expected = float(np.sum(rest**2) - np.sum((rest @ limit.left) ** 2)) / OUTER**2
    report.add(f"tanh-model.d{d}.rank-WV", expected, float(stable_rank(value)) - 1,
               0.05 * expected, text="stable rank of W_V then, less 1")  # fmt: skip
    # on to u*: a few times 1/(wm), whatever ε is
    options = {"rtol": rtol, "error_bars": False, "solver": diffrax.Tsit5()}
    first = gflow.simulate(out.final, data.objective, t1=2 / (OUTER * m), **options)
    here = first.final
    F = co.key_query_matrix(x, y, *(np.asarray(w.value) for w in (here.value, here.inner,
                                                                   here.readout)))  # fmt: skip
    keys = [w[-1] for w in factors(first.leaves["kq"])]
    plateau = co.plateau(F, *keys, LEVEL)
    end = first.t[-1] + 1.25 * plateau.length
    second = gflow.simulate(here, data.objective, t1=end, **options)
    both = after([first, second])
    norm = np.linalg.norm(both.weights["query"], axis=(1, 2))
    i = int(np.flatnonzero(norm >= LEVEL)[0])
    saturated = float(
        np.interp(math.log(LEVEL), np.log(norm[i - 1 : i + 1]), both.t[i - 1 : i + 1])
    )
    predicted = first.t[-1] + plateau.length
    spacing = both.t[i] - both.t[i - 1]
    report.add(f"tanh-model.d{d}.saturation-time", plateau.length, saturated - first.t[-1],
               0.2 * plateau.length, spacing, unit="flow time",
               text=f"time from mid-plateau to ‖W_Q‖ = {LEVEL:g}")  # fmt: skip
    rank = float(stable_rank(both.weights["query"][i])) - 1
    report.say(
        f"tanh model, d = {d}, ε = 1e-{EXPONENT}: σ(F) at mid-plateau "
        f"{', '.join(f'{s:.4f}' for s in np.linalg.svd(F)[1][:3])} …; stable rank of W_Q when "
        f"attention saturates 1 + {rank:.3g}, predicted 1 + {plateau.query_rank - 1:.3g}; "
        f"{out.statistics['accepted']} + {first.statistics['accepted']} + "
        f"{second.statistics['accepted']} steps."
    )
    report.data(second, "condensation_tanh")
    drawn = drawn_linear(F, keys, first.t[-1], predicted)
    draw(report, d, eps * m, before(out), both, escape, predicted, drawn)


def drawn_linear(F, keys, start: float, end: float):
    """‖W_Q‖ under the linear flow, from mid-plateau on."""
    t = np.linspace(start, end, 50)
    return t, np.exp(co.key_query_directions(F, *keys, t - start).log_query)


def draw(report, d, clock, one, two, escape, saturated, linear) -> None:
    """Norms, ranks and loss in both stages; predicted times as vertical lines."""
    figure, axes = new_figure(3, 2)
    for row, (stage, scale, mark) in enumerate(((one, clock, escape), (two, 1.0, saturated))):
        t = scale * stage.t
        for name, w in stage.weights.items():
            style = {"color": COLOURS[SHADES[name]], "ls": STYLES[name], "lw": 1.3}
            flat = w.reshape(len(w), -1)
            axes[row, 0].semilogy(t, np.linalg.norm(flat, axis=1), **style, label=NAMES[name])
            if w.ndim == 3:
                axes[row, 1].plot(t, stable_rank(w), **style, label=NAMES[name])
        axes[row, 2].plot(t, stage.loss, color="black", lw=1.3)
        for ax in axes[row]:
            ax.axvline(scale * mark, color="0.4", lw=1, ls=(0, (1, 1.5)))
            ax.set_xlabel(r"$\varepsilon m t$ (flow time $t$)" if row == 0 else
                          "flow time since the escape")  # fmt: skip
        axes[row, 0].set_ylabel("Frobenius norm")
        axes[row, 1].set_ylabel("stable rank")
        axes[row, 2].set_ylabel("loss")
    axes[1, 0].semilogy(*linear, **EXACT, label="linear flow")
    axes[0, 0].plot([], [], color="0.4", lw=1, ls=(0, (1, 1.5)), label="predicted escape")
    axes[1, 2].plot([], [], color="0.4", lw=1, ls=(0, (1, 1.5)), label="predicted saturation")
    axes[1, 2].legend(fontsize="x-small")
    for ax in (axes[0, 0], axes[1, 0], axes[0, 1]):
        ax.legend(fontsize="x-small", ncols=2)
    axes[0, 0].set_title(rf"escape, $d = {d}$, $\varepsilon = 10^{{-{EXPONENT}}}$")
    axes[1, 0].set_title("plateau")
    axes[0, 1].set_title("outer weights condense")
    axes[1, 1].set_title("$W_Q$, $W_K$ collapse")
    for ax in axes[:, 1]:
        ax.set_ylim(0, None)
    report.figure(figure, "condensation_tanh")
