"""Logits from an equiangular start at any size, modes of a Hadamard start, and collapse."""

from typing import NamedTuple

import jax
import numpy as np

import gflow
import theory
from gflow.internal import angle
from gflow.models import FactoredLinear
from gflow.objectives import CrossEntropy
from theory import cross_entropy

from ... import Report
from ..settings import Settings

PAPER = "Garrod, Keating, Thrampoulidis 2025, arXiv 2512.04006"
#: Classes of the equiangular start, and of examples that are to collapse: three each.
K, CLASSES, COPIES = 5, 4, 3
RTOL = 1e-11
#: How far runs are followed, log t growing all the while.
LATE = 1e12
MODES = np.array([0.0, 1e-2, 3e-3, 1e-3, 2e-2, 5e-4, 3e-2, 7e-3])
DECAY = 5e-3


class Modes(NamedTuple):
    """A run from a Hadamard start under one decay, and its modes (times, K)."""

    decay: float
    run: gflow.Trajectory
    modes: np.ndarray


class Collapse(NamedTuple):
    """The four measures of neural collapse by name, along runs with and without decay."""

    free: gflow.Trajectory
    decayed: gflow.Trajectory
    measures: dict[str, tuple[np.ndarray, np.ndarray]]


def objective(classes: int) -> CrossEntropy:
    return CrossEntropy(np.eye(classes), np.arange(classes))


def network(start: tuple[np.ndarray, np.ndarray]) -> FactoredLinear:
    first, second = start
    return FactoredLinear(gflow.Factored(second, first.T))


def equiangular(report: Report, settings: Settings) -> dict[float, gflow.Trajectory]:
    """a(t) of W = a (I − 11ᵀ/K) to t = 1e12."""
    found = {}
    for size in settings.sizes:
        model = network(cross_entropy.etf_start(K, size, K, key=jax.random.key(0)))
        run = gflow.simulate(model, objective(K), t1=LATE, rtol=RTOL)
        table = theory.compare(run, cross_entropy.predict(model, objective(K)))
        report.compare(f"equiangular.a{size:g}", table, f"{K} classes, a(0) = {size:g}:")
        a = logit(run)
        exact = cross_entropy.etf_logit(K, size, run.t)
        bar = np.max(run.error["weight"].reshape(len(a), -1), axis=1) * K / (K - 1.0)
        worst = int(np.argmax(np.abs(a / exact - 1.0)))
        report.add(
            f"equiangular.a{size:g}.deviation",
            0.0,
            float(abs(a[worst] / exact[worst] - 1.0)),
            1e-9,
            float(bar[worst] / exact[worst]),
            paper=PAPER,
            text=f"largest relative deviation of a(t), t = 0 … {LATE:g}, a(0) = {size:g}",
        )
        found[size] = run
    return found


def logit(run: gflow.Trajectory) -> np.ndarray:
    """a of W = a (I − 11ᵀ/K)."""
    w = run.observables["weight"]
    k = w.shape[-1]
    return np.trace(w, axis1=1, axis2=2) / (k - 1.0)


def hadamard(report: Report) -> list[Modes]:
    """K = 8 modes of different sizes, one of them zero, with and without decay."""
    k, found = len(MODES), []
    h = cross_entropy.hadamard_logits(np.eye(k)) * k  # h_m h_mᵀ
    for decay in (0.0, 0.02):
        model = network(cross_entropy.hadamard_start(MODES, k, key=jax.random.key(1)))
        end = LATE if decay == 0.0 else 2e3
        run = gflow.simulate(model, objective(k), t1=end, rtol=RTOL, decay=decay)
        table = theory.compare(run, cross_entropy.predict(model, objective(k), decay=decay))
        report.compare(f"hadamard.lambda{decay:g}", table, f"Hadamard start, λ = {decay:g}:")
        modes = np.einsum("mij,tij->tm", h, run.observables["weight"]) / k
        exact = cross_entropy.hadamard_modes(MODES, run.t, decay)
        off = np.max(np.abs(modes - exact), axis=1) / np.max(exact, axis=1)
        bar = np.max(run.error["weight"], axis=(1, 2)) * k / np.max(exact, axis=1)
        worst = int(np.argmax(off))
        report.add(
            f"hadamard.lambda{decay:g}.deviation",
            0.0,
            float(off[worst]),
            1e-9,
            float(bar[worst]),
            paper=PAPER,
            text=f"largest deviation of a mode over the largest mode, λ = {decay:g}",
        )
        found.append(Modes(decay, run, modes))
    return found


def features() -> tuple[FactoredLinear, CrossEntropy, np.ndarray]:
    """Free features: a one-hot input for every example, so that W₁ holds them as columns."""
    n, width = CLASSES * COPIES, 6
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), COPIES)
    leaf = gflow.Product(*(1e-2 * rng.normal(size=s) for s in ((CLASSES, width), (width, n))))
    return FactoredLinear(leaf), CrossEntropy(np.eye(n), labels), labels


def collapse(report: Report) -> Collapse:
    """From a small random start: features of a class meet, means and weights become a simplex."""
    model, loss, labels = features()
    names = "within_class", "equinorm", "equiangle", "self_duality"
    runs, found = [], {}
    for decay in (0.0, DECAY):
        runs.append(gflow.simulate(model, loss, decay=decay, rtol=1e-10))
    for name in names:
        read = getattr(cross_entropy, name)
        rows = []
        for run in runs:
            w2, h = _layers(run)
            rows.append(read(h, labels, w2) if name == "self_duality" else read(h, labels))
        found[name] = tuple(rows)
    free, decayed = runs
    report.say(
        f"Neural collapse of {len(labels)} free features of {CLASSES} classes: without decay "
        f"({free.status.name}, t = {free.t[-1]:.3g}) and at the rest under λ = {DECAY:g}",
        *(f"  {n:12s}  {found[n][0][-1]:.3e}  {found[n][1][-1]:.3e}" for n in names),
    )
    for name in names:
        report.add(
            f"collapse.{name}",
            0.0,
            float(found[name][1][-1]),
            1e-6,
            paper=PAPER,
            text=f"{name} at the rest under λ = {DECAY:g}",
        )
    heading = free.heading("weight")
    simplex = np.repeat(np.eye(CLASSES) - 1.0 / CLASSES, COPIES, axis=1)
    off = angle(heading.direction, simplex)
    report.add(
        "collapse.direction",
        0.0,
        off,
        1e-2,
        heading.error,
        unit="rad",
        paper=PAPER,
        text="angle of the logits' direction at infinity to the simplex, without decay",
    )
    return Collapse(free, decayed, found)


def _layers(run: gflow.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """W₂ (times, K, h) and the features (times, n, h)."""
    models = [run.model(step=i) for i in range(len(run.t))]
    pairs = [[np.asarray(x) for x in model.weight.factors] for model in models]
    return np.stack([p[0] for p in pairs]), np.stack([p[1].T for p in pairs])
