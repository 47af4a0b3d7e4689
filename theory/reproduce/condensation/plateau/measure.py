"""Keys and queries on the plateau, at ε from 1e-4 to 1e-100, against F of the data.

With a linear readout the loss of uniform attention is convex in u = W_V W1 W2, and its minimiser
u* gives F without any simulation. Times and ranks when ‖W_Q‖ reaches a level then follow up to
what happens before u settles, which is the same at every small ε: it drops out of differences.
"""

import math
from typing import Any, NamedTuple

import diffrax
import jax
import numpy as np
from scipy import optimize

import gflow
from gflow.plot import COLOURS

from .... import condensation as co
from ....condensation._separability import check_not_separable
from ..._report import Report
from ...condensation.key_query_spectra import excess, factors, predicted_spectra, spectra
from ...exact_linear.runs import EXACT, new_figure

LOG10 = math.log(10.0)
EXAMPLES, TOKENS, WIDTH = 256, 6, 6
#: Norm of the outer weights at the hand-over, and of W_Q at the end, where logits are small.
OUTER, LEVEL = 0.2, 0.05
MEASURED = {"ls": "", "mfc": "white", "ms": 4.5}


def linear(x):
    """No activation, as in the paper's Proposition 3."""
    return x


class Second(NamedTuple):
    """A run through the plateau, the time when ‖W_Q‖ = LEVEL, and the leaf W_QW_Kᵀ then."""

    model: Any
    run: gflow.Trajectory
    time: float
    leaf: dict


def task():
    """Data whose mean tokens no direction separates."""
    data = gflow.tasks.attention_labels(EXAMPLES, TOKENS, WIDTH, key=jax.random.key(3))
    check_not_separable(np.asarray(data.inputs), np.asarray(data.labels))
    return data


def settled(X, y) -> np.ndarray:
    """F at u*, the minimiser of the loss with uniform attention."""
    rows = y[:, None] * X.mean(axis=1)

    def loss(u):
        q = np.exp(-rows @ u)
        return np.mean(q), -np.mean(q[:, None] * rows, axis=0)

    def curvature(u):
        return (rows * np.exp(-rows @ u)[:, None]).T @ rows / len(rows)

    found = optimize.minimize(
        loss, np.zeros(X.shape[-1]), jac=True, hess=curvature, method="trust-exact",
        options={"gtol": 1e-13},
    )  # fmt: skip
    one = np.eye(X.shape[-1])
    return co.key_query_matrix(X, y, one, one, found.x, activation="linear")


def through(data, exponent: int, F: np.ndarray, rtol: float) -> Second:
    """From ε = 10^−exponent to ‖W_Q‖ = LEVEL."""
    model: Any = gflow.models.LastTokenTransformer.small(
        WIDTH, WIDTH, log_epsilon=-exponent * LOG10, key=jax.random.key(0), activation=linear
    )
    out = gflow.escape(model, data.objective, level=OUTER, rtol=rtol)
    start = (np.asarray(x) * 10.0**-exponent for x in (model.kq.left, model.kq.right))
    rate = np.linalg.norm(F, 2)
    # what u needs to settle comes on top of the plateau
    end = co.plateau(F, *start, LEVEL).length + 12 / rate
    run = gflow.simulate(
        out.final, data.objective, t1=end, rtol=rtol, solver=diffrax.Tsit5(), error_bars=False
    )
    size = np.log(np.linalg.norm(factors(run.leaves["kq"])[0], axis=(1, 2)) / LEVEL)
    i = int(np.flatnonzero(size >= 0)[0])

    def gap(t: float) -> float:
        query, _ = factors(run.record_at(t)["leaves"]["kq"])
        return float(np.log(np.linalg.norm(query) / LEVEL))

    root, _ = optimize.brentq(gap, run.t[i - 1], run.t[i], xtol=1e-12 * end, full_output=True)
    return Second(model, run, float(root), run.record_at(root)["leaves"]["kq"])


def second_stage(report: Report) -> None:
    """Times and ranks over ε, singular values and vectors in time."""
    data, rtol = task(), 1e-8 if report.fast else 1e-10
    x, y = np.asarray(data.inputs), np.asarray(data.labels)
    F = settled(x, y)
    sigma = np.linalg.svd(F, compute_uv=False)
    report.settings.update(examples=EXAMPLES, tokens=TOKENS, width=WIDTH, outer=OUTER, level=LEVEL)
    report.say(
        f"Second stage: {EXAMPLES} sequences of {TOKENS} tokens in {WIDTH} dimensions, linear "
        f"readout; σ(F) at u* = {', '.join(f'{s:.5f}' for s in sigma[:3])} …"
    )
    exponents = (4, 16, 32, 100) if report.fast else (4, 8, 16, 32, 64, 100)
    runs = {e: through(data, e, F, rtol) for e in exponents}
    figure, axes = new_figure(2, 2)
    in_time(report, runs[16], F, axes[0])
    over_sizes(report, runs, F, axes[1])
    report.data(runs[16].run, "condensation_plateau")
    report.figure(figure, "condensation_plateau")


def in_time(report: Report, second: Second, F: np.ndarray, axes) -> None:
    """Singular values of W_Q and W_K from mid-plateau on, and how u₁ and v₁ come to F's."""
    shown = second.run.t <= second.time
    t = second.run.t[shown]
    leaf = second.run.leaves["kq"].at(shown)
    u, sigma, vt = np.linalg.svd(F)
    half = int(np.searchsorted(t, 0.5 * second.time))
    found = spectra(leaf)
    values = [logs / LOG10 for _, logs in found]
    start = (w[half] for w in factors(leaf))
    after = t[half + 1 :]
    predicted = [x / LOG10 for x in predicted_spectra(F, *start, after - t[half])]
    off = max(float(np.max(np.abs(p[:, 0] - v[half + 1 :, 0])))
              for p, v in zip(predicted, values, strict=True))  # fmt: skip
    # at its end logits of size LEVEL² turn F by as much, and u has come to u* by mid-plateau
    report.add("plateau.eps1e-16.largest-singular-value", 0.0, off, LEVEL, unit="decades",
               text="largest error of log₁₀ of the largest singular value of W_Q, W_K, flow with "
               "F at u* from mid-plateau")  # fmt: skip
    for k in range(3):
        axes[0].plot(t, values[0][:, k], color=COLOURS[k], lw=1.6, alpha=0.6)
        axes[0].plot(after, predicted[0][:, k], **EXACT)
        at = slice(k, None, max(len(t) // 12, 1))
        axes[0].plot(t[at], values[1][at, k], "osD"[k], color=COLOURS[k], **MEASURED)
    axes[0].plot([], [], color="0.3", lw=1.6, alpha=0.6, label="$W_Q$")
    axes[0].plot([], [], "o", color="0.3", **MEASURED, label="$W_K$")
    axes[0].plot([], [], **EXACT, label="predicted from mid-plateau")
    axes[0].set(xlabel="flow time since the escape", ylabel=r"$\log_{10}$ singular value")
    axes[0].legend(fontsize="x-small")
    axes[0].set_title(r"three largest singular values, $\varepsilon = 10^{-16}$")
    for i, (vector, name) in enumerate(((u[:, 0], "Q"), (vt[0], "K"))):
        left = found[i][0][:, :, 0]
        angle = np.linalg.norm(left - (left @ vector)[:, None] * vector, axis=1)
        report.add(f"plateau.eps1e-16.W{name}.angle", 0.0, angle[-1], LEVEL**2, unit="rad",
                   text="angle of the top singular vector to that of F at the end")  # fmt: skip
        axes[1].semilogy(t[1:], angle[1:], ("-", ":")[i], color=COLOURS[i], lw=1.6,
                         label=f"$W_{name}$")  # fmt: skip
    middle = slice(*np.searchsorted(t, np.array([0.3, 0.8]) * second.time))
    line = 0.1 * angle[half] * np.exp((sigma[1] - sigma[0]) * (t[middle] - t[half]))
    axes[1].semilogy(t[middle], line, **EXACT, label=r"rate $\sigma_1 - \sigma_2$")
    axes[1].set(xlabel="flow time since the escape", ylabel="angle of top singular vectors to $F$")
    axes[1].legend(fontsize="x-small")
    axes[1].set_title("alignment")


def over_sizes(report: Report, runs: dict[int, Second], F: np.ndarray, axes) -> None:
    """Length of the plateau and rank at its end against ε."""
    sigma = np.linalg.svd(F, compute_uv=False)
    logs = np.array(list(runs)) * LOG10
    times = np.array([second.time for second in runs.values()])
    ranks, ends, length = [], [], []
    for exponent, second in runs.items():
        leaf = {k: x[None] for k, x in second.leaf.items()}
        ranks.append([float(excess(logs)[0]) for _, logs in spectra(leaf)])
        kq = second.model.kq
        start = [np.asarray(w) * 10.0**-exponent for w in (kq.left, kq.right)]
        length.append(co.plateau(F, *start, LEVEL).length)
        ends.append([float(excess(x)[0]) for x in predicted_spectra(F, *start, [length[-1]])])
    for i in range(1, len(logs)):
        pair = f"plateau.eps1e-{list(runs)[i - 1]}-1e-{list(runs)[i]}"
        slope = (times[i] - times[i - 1]) / (logs[i] - logs[i - 1])
        # what is left of the way of u to u* at the end of the shorter plateau
        report.add(f"{pair}.length-slope", 1 / sigma[0], slope, 0.02 / sigma[0],
                   unit="flow time", text="∂T₂/∂ln(1/ε), 1/σ₁")  # fmt: skip
        for j, name in enumerate("QK"):
            found = math.log(ranks[i - 1][j] / ranks[i][j]) / (logs[i] - logs[i - 1])
            expected = math.log(ends[i - 1][j] / ends[i][j]) / (logs[i] - logs[i - 1])
            report.add(f"{pair}.W{name}.rank-slope", expected, found, 0.05 * expected,
                       text=f"slope of ln(srank W_{name} − 1) in ln ε")  # fmt: skip
    late = ", ".join(f"{x:.3f}" for x in (times - np.array(length)) * sigma[0])
    report.say(f"  plateau less its prediction with F at u*, in units of 1/σ₁: {late}")
    axes[0].plot(logs / LOG10, times, "o", color=COLOURS[0], **MEASURED, label="simulated")
    axes[0].plot(logs / LOG10, times[-1] + (logs - logs[-1]) / sigma[0], **EXACT,
                 label=r"slope $1/\sigma_1$, by the last point")  # fmt: skip
    axes[0].set(xlabel=r"$\log_{10} 1/\varepsilon$", ylabel=rf"time to $\|W_Q\| = {LEVEL:g}$")
    axes[0].legend(fontsize="x-small")
    axes[0].set_title("length of the plateau")
    for j, name in enumerate("QK"):
        axes[1].semilogy(logs / LOG10, [r[j] for r in ranks], "os"[j], color=COLOURS[j],
                         label=f"$W_{name}$, simulated",
                         **{**MEASURED, "ms": 7 - 3 * j})  # fmt: skip
        axes[1].semilogy(logs / LOG10, [end[j] for end in ends], label=f"$W_{name}$, predicted",
                         **{**EXACT, "ls": ((0, (4, 2)), ":")[j]})  # fmt: skip
    axes[1].set(xlabel=r"$\log_{10} 1/\varepsilon$", ylabel="stable rank, less 1")
    axes[1].legend(fontsize="x-small")
    axes[1].set_title("rank left at the end of the plateau")
