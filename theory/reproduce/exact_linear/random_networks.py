"""Random networks by the protocol of Braun et al. 2022, Fig. 2C–D."""

import math

import jax
import numpy as np

from gflow.plot import COLOURS

from ... import exact_linear as exact
from .._report import Report
from ..exact_linear.runs import MARGIN, new_figure, simulate


def random_networks(report: Report) -> None:
    """The protocol of Braun et al. 2022, Fig. 2C–D, with the flow in place of descent."""
    tolerances = (1e-6, 1e-10)
    results = {rtol: [] for rtol in tolerances}
    for seed in range(5 if report.fast else 50):
        w1, w2, target = random_network(seed)
        for rtol in tolerances:
            one = simulate(w1, w2, target, 30.0, pad=50, rtol=rtol)
            weight = np.gradient(one.t) / one.t[-1]
            gap = np.sum(weight * (one.trajectory.loss - one.loss) ** 2)
            worst = np.max(np.abs(one.trajectory.loss - one.loss)) / one.loss[0]
            bar = np.max(one.trajectory.error["loss"]) / one.loss[0]
            results[rtol].append((target.size, gap, worst, bar))
    table = {rtol: np.array(rows) for rtol, rows in results.items()}
    for rtol, rows in table.items():
        report.add(
            f"random-networks.rtol{rtol:g}.loss",
            0.0, float(rows[:, 2].max()), MARGIN * rtol, float(rows[:, 3].max()),
            paper="Braun et al. 2022",
            text=f"largest |loss − exact| of {len(rows)} networks, relative to the first loss",
        )  # fmt: skip
        report.add(
            f"random-networks.rtol{rtol:g}.loss-deviation",
            0.0, float(rows[:, 1].max()), 5e-6, paper="Braun et al. 2022",
            text=f"largest mean squared deviation of the loss of {len(rows)} networks, against "
            "the 5e-6 of gradient descent in the paper",
        )  # fmt: skip
    figure, (left, right) = new_figure(2)
    bins = np.arange(-34, -5, 1.0)
    for colour, hatch, marker, (rtol, rows) in zip(
        COLOURS, ("///", "..."), "os", reversed(table.items()), strict=False
    ):
        label = rf"flow, rtol = $10^{{{math.log10(rtol):.0f}}}$"
        size, gap = rows[:, 0], np.maximum(rows[:, 1], 1e-34)
        left.hist(
            np.log10(gap), bins, facecolor="white", edgecolor=colour, hatch=hatch, label=label
        )
        right.loglog(size, gap, marker, mec=colour, mfc="none", ms=4, label=label)
    left.axvspan(-15, math.log10(5e-6), color="0.9", zorder=0)
    right.axhspan(1e-15, 5e-6, color="0.9", zorder=0)
    left.set_xlabel(r"$\log_{10}$ mean squared deviation of the loss")
    left.set(ylabel="networks", xlim=(-30, -4), ylim=(0, 1.45 * left.get_ylim()[1]))
    left.text(-10.1, 0.98 * left.get_ylim()[1], "gradient descent,\npublished", ha="center",
              va="top", fontsize="x-small")  # fmt: skip
    left.yaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize="x-small", loc="upper left")
    right.set(xlabel="entries of $W_2W_1$", ylabel="mean squared deviation")
    right.set(xlim=(3, 3000), ylim=(1e-30, 1e-4))
    right.text(3.5, 1e-6, "gradient descent, published", va="top", fontsize="x-small")
    right.legend(fontsize="x-small", loc="lower left")
    left.set_title("simulated against exact losses")
    right.set_title("the same by size of the network")
    report.figure(figure, "random_networks")


def random_network(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, whitened random regression and zero-balanced start of the protocol."""
    rng = np.random.default_rng(seed)
    i, o = rng.choice(np.arange(2, 51), 2, replace=False)
    small, large = min(i, o), max(i, o)
    h = int(rng.integers(small, 51))
    examples = int(rng.integers(2 * large, 3 * large + 1))
    left, _, right = np.linalg.svd(rng.standard_normal((i, examples)), full_matrices=False)
    inputs = math.sqrt(examples) * left @ right
    target = rng.standard_normal((o, examples)) @ inputs.T / examples
    scale = rng.uniform(0.01, 0.5) / math.sqrt(max(i, h, o))
    w1, w2 = exact.balanced_start((int(i), h, int(o)), scale=scale, key=jax.random.key(seed))
    return w1, w2, target
