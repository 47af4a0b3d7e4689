"""Read-outs of words, scores, losses by kind, and the balance of gradients along the flow."""

import math
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import expit

import gflow
from gflow.models import PooledTransformer
from gflow.tasks import CoOccurrence, word_cooccurrence
from theory import cross_entropy

from ... import Report
from ..settings import Settings

PAPER = "Yang et al. 2024, arXiv 2410.09605"
RTOL, END = 1e-10, 300.0
#: Times around which slopes are taken, over this share of them.
MARKS, SHARE = (1.0, 10.0, 100.0), 2e-3
#: What the small start is of the published one.
SMALL = 0.1
#: Kinds: both words, the first, the second, neither.
KINDS = "both", "first", "second", "neither"


class Size(NamedTuple):
    """Sequences, their length, dimensions of tokens and of attention, hidden units."""

    n: int
    length: int
    d: int
    m: int
    units: int


PUBLISHED, NARROW = Size(60, 5, 64, 128, 256), Size(60, 5, 64, 16, 32)
#: With all irrelevant tokens different, as the theory takes them.
DISTINCT = Size(24, 4, 55, 16, 32)


class Run(NamedTuple):
    """A run with its data, and what was read off it by name (times leading)."""

    task: CoOccurrence
    model: PooledTransformer
    flow: gflow.Trajectory
    seen: dict[str, np.ndarray]


class Words(NamedTuple):
    """Runs from the published start and from the small one."""

    published: Run
    small: Run


def words(report: Report, settings: Settings) -> Words:
    """The published data and both starts; other seeds from small starts on data without repeats."""
    size = PUBLISHED if settings.published else NARROW
    report.say(
        f"Word co-occurrence: {size.n} sequences of {size.length} tokens, m = {size.m}, "
        f"{size.units} hidden units. The published tokens live in {size.d} dimensions, which "
        "leave too few irrelevant ones for all to differ, as the theory takes them."
    )
    task = word_cooccurrence(*size[:3], key=jax.random.key(0), distinct=False)
    both = []
    for name, scale in (("published", 1.0), ("small", SMALL)):
        run = follow(task, size, scale, 0)
        both.append(run)
        identities(report, f"cooccurrence.{name}", run)
        ratios(report, name, run)
    phases(report, "cooccurrence.small", both[1])
    for seed in range(settings.seeds):
        task = word_cooccurrence(*DISTINCT[:3], key=jax.random.key(10 + seed))
        run = follow(task, DISTINCT, SMALL, seed)
        phases(report, f"cooccurrence.distinct.seed{seed}", run)
    return Words(*both)


def follow(task: CoOccurrence, size: Size, scale: float, seed: int) -> Run:
    """The flow to t = 300 from a start of `scale` times PyTorch's default one."""
    model = PooledTransformer.small(
        size.d, size.m, size.units, log_epsilon=math.log(scale), key=jax.random.key(seed)
    )
    inputs, three = task.inputs, task.words
    watched = {
        "outputs": lambda model: jax.vmap(model)(inputs),
        "readout": lambda model: model.readout(three),
        "scores": lambda model: model.scores(three),
        "norm2": lambda model: jax.numpy.sum((model.signs.value @ model.inner.value) ** 2),
    }
    around = [t * (1.0 + SHARE * i) for t in MARKS for i in (-2, -1, 0, 1, 2)]
    flow = gflow.simulate(
        model,
        task.objective,
        t1=END,
        rtol=RTOL,
        observables=watched,
        save=gflow.save.observables(around),
    )
    return Run(task, model, flow, {name: flow.observables[name] for name in watched})


def slope(run: Run, name: str, t: float) -> np.ndarray:
    """d/dt of what was read at one of the marks: central differences of fourth order."""
    at = [int(np.argmin(np.abs(run.flow.t - t * (1.0 + SHARE * i)))) for i in (-2, -1, 1, 2)]
    far, near, after, farther = (run.seen[name][i] for i in at)
    return np.asarray((far - 8.0 * near + 8.0 * after - farther) / (12.0 * SHARE * t))


def residuals(run: Run) -> np.ndarray:
    """g_i = 1/(1 + e^{y_i F_i}): (times, n)."""
    return expit(-np.asarray(run.task.labels) * run.seen["outputs"])


def by_kind(run: Run) -> np.ndarray:
    """Σ g over each kind: (times, 4)."""
    g, kinds = residuals(run), np.asarray(run.task.kinds)
    return np.stack([np.sum(g[:, kinds == kind], axis=1) for kind in range(4)], axis=1)


def losses_by_kind(run: Run) -> np.ndarray:
    """Mean loss of each kind: (times, 4)."""
    kinds = np.asarray(run.task.kinds)
    each = np.logaddexp(0.0, -np.asarray(run.task.labels) * run.seen["outputs"])
    return np.stack([np.mean(each[:, kinds == kind], axis=1) for kind in range(4)], axis=1)


def identities(report: Report, key: str, run: Run) -> None:
    """What holds exactly: the balance of the read-out, and two conserved Grams."""
    outputs, labels = run.seen["outputs"], np.asarray(run.task.labels)
    units = run.model.signs.value.shape[0]
    for t in MARKS:
        at = int(np.argmin(np.abs(run.flow.t - t)))
        rate = float(cross_entropy.balance_identity(outputs[at], labels, units))
        found = float(slope(run, "norm2", t))
        # values known to their bars, differences of which are divided by h
        bar = float(np.max(run.flow.error["norm2"])) / (SHARE * t)
        report.add(
            f"{key}.balance.t{t:g}",
            rate,
            found,
            1e-7 * abs(rate),
            bar,
            paper=PAPER,
            text=f"d/dt ‖Σ a_j w_j‖² at t = {t:g} (eq. 5)",
        )
    first, last = (run.flow.model(step=i) for i in (0, -1))
    grams = [
        cross_entropy.conserved(
            *(np.asarray(getattr(x, n).value) for n in ("key", "query", "value", "inner"))
        )
        for x in (first, last)
    ]
    for name, before, after in zip(("keys", "values"), *grams, strict=True):
        size = float(np.max(np.abs(before)))
        report.add(
            f"{key}.conserved.{name}",
            0.0,
            float(np.max(np.abs(after - before))) / size,
            1e-9,
            paper=PAPER,
            text=f"change of the conserved Gram of {name} to t = {END:g}, of its size",
        )


def ratios(report: Report, name: str, run: Run) -> None:
    """The approximate ratio of the third read-out to the first, with its error: it is no claim."""
    lines = []
    for t in MARKS:
        at = int(np.argmin(np.abs(run.flow.t - t)))
        one, two, three = slope(run, "readout", t)
        both, first, second, neither = by_kind(run)[at]
        # each sequence holds μ₃, those of both words and of the first hold μ₁
        law = (first + second + neither - both) / (both - first)
        real = -three / one
        lines.append(
            f"  t = {t:<6g} G' = {one:9.4g} {two:9.4g} {three:9.4g}   −G'₃/G'₁ = {real:8.4g}, "
            f"from the residuals {law:8.4g} ({100.0 * abs(law / real - 1.0):.2g} % off)"
        )
    report.say(f"Co-occurrence, {name} start: slopes of the read-outs of μ₁, μ₂, μ₃", *lines)


def phases(report: Report, key: str, run: Run) -> None:
    """Signs of slopes and scores, and residuals that balance, from a small start."""
    signs = []
    for t in MARKS:
        change = slope(run, "scores", t)
        signs += [change[0, 1] > 0, change[1, 0] > 0, change[2, 0] < 0, change[2, 1] < 0]
    report.add(
        f"{key}.scores",
        float(len(signs)),
        float(np.sum(signs)),
        0.0,
        paper=PAPER,
        text="slopes of the four scores with the sign of Lemma 4.7, at three times",
    )
    losses = losses_by_kind(run)
    worse = np.max(losses, axis=0) > 1.001 * losses[0]
    report.add(
        f"{key}.worse-first",
        2.0,
        float(np.sum(worse[1:3])),
        0.0,
        paper=PAPER,
        text="kinds of one word whose loss rises before it falls, of two",
    )
    end = run.seen["readout"][-1]
    margins = [np.sum(end) > 0, end[0] + end[2] < 0, end[1] + end[2] < 0]
    report.add(
        f"{key}.margins",
        3.0,
        float(np.sum(margins)),
        0.0,
        paper=PAPER,
        text=f"signs of G₁ + G₂ + G₃, G₁ + G₃ and G₂ + G₃ at t = {END:g}",
    )
    sums = by_kind(run)[-1]
    apart = float(abs(sums[1] - sums[2]) / min(sums[1], sums[2]))
    one, two, three = slope(run, "readout", MARKS[-1])
    balanced = max(one, two) < -three < one + two
    report.say(
        f"{key}: residuals of the kinds {', '.join(f'{x:.3g}' for x in sums)} at t = {END:g}; "
        f"those of one word differ by {apart:.2g} of the smaller; at t = {MARKS[-1]:g} "
        f"−G'₃ = {-three:.3g} {'lies' if balanced else 'does not lie'} between {max(one, two):.3g} "
        f"and {one + two:.3g}"
    )
    report.add(
        f"{key}.between",
        1.0,
        float(balanced),
        0.0,
        paper=PAPER,
        text="whether −G'(μ₃) lies between the larger of G'(μ₁), G'(μ₂) and their sum",
    )
