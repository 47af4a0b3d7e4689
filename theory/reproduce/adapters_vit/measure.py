"""The rank jumps by the limit algorithm and by the flow; how much of them AdamW's change has."""

from typing import NamedTuple

import numpy as np
import optax

import gflow
from gflow.internal import svd, trained_leaves
from theory import Prediction, gradual_rank

from .. import Report, Runs, Scales, compare_scales
from .problem import ANGLE, DECAY, Problem, problem
from .settings import Settings

#: Of orbits, and of the flow: errors of times are some 1e-5 of 1/rate, far below those of α.
ORBITS, RTOL = 1e-6, 1e-7
RATE, STEPS = 1e-3, 1500
NULLS = 200


class Shares(NamedTuple):
    """Along AdamW: the loss, the share of its change in predicted directions, and by chance."""

    loss: np.ndarray
    share: np.ndarray
    chance: np.ndarray


class Numbers(NamedTuple):
    """All that is drawn."""

    scales: Scales
    shares: Shares


def measure(report: Report, settings: Settings) -> Numbers:
    """Prediction, runs from every α, and AdamW."""
    one = problem()
    report.say(
        f"Vision transformer: loss {one.before:.3g} on digits, "
        f"{float(one.objective(one.trained)):.3g} on digits turned by {ANGLE:g}°; decay {DECAY:g} "
        "on the adapters"
    )
    largest = max(settings.exponents)
    prediction = gradual_rank.predict(
        one.at(largest), one.objective, decay=DECAY, rtol=ORBITS, max_stages=settings.stages + 1
    )
    *shown, following = prediction.stages
    end = 0.5 * (shown[-1].tau + following.tau)
    runs: Runs = {
        k: gflow.simulate(one.at(k), one.objective, decay=DECAY, tau1=end, rtol=RTOL)
        for k in settings.exponents
    }
    compare_scales(report, "adapters", "adapters of a vision transformer", runs, prediction)
    return Numbers(Scales(runs, prediction), _descended(report, one, prediction))


def _descended(report: Report, one: Problem, prediction: Prediction) -> Shares:
    """AdamW from the usual start: its change against the last predicted saddle.

    The share is that of ‖UᵀΔV‖² in ‖Δ‖², U and V spanning the predicted matrices, over the
    adapters with a predicted rank; by chance, U and V are random.
    """
    start = gflow.to_factors(one.usual())
    run = gflow.descend(
        start, one.objective, optimizer=optax.adamw(RATE, weight_decay=DECAY), steps=STEPS,
        save_every=STEPS // 30,
    )  # fmt: skip
    saddle = prediction.stages[-1].value
    assert isinstance(saddle, dict)  # of several leaves
    kept = {name: np.asarray(w) for name, w in saddle.items() if np.linalg.norm(w) > 0.0}
    models = [run.model(t=float(t)) for t in run.t[1:]]
    changes = [{name: np.asarray(trained_leaves(m)[name].value) for name in kept} for m in models]
    bases = {name: _bases(w) for name, w in kept.items()}
    rng = np.random.default_rng(0)
    drawn = [
        {name: [_turned(b, rng) for b in heads] for name, heads in bases.items()}
        for _ in range(NULLS)
    ]
    share = np.array([_share(change, bases) for change in changes])
    chance = np.quantile([_share(changes[-1], other) for other in drawn], [0.05, 0.5, 0.95])
    loss = np.asarray(run.loss[1:])
    near = int(np.argmin(np.abs(loss - prediction.stages[-1].loss)))
    report.say(
        f"AdamW from the usual start: at the loss of the last predicted saddle "
        f"({prediction.stages[-1].loss:.3g}) {100 * share[near]:.0f} % of its change lies in the "
        f"predicted directions, at its end (loss {loss[-1]:.2g}) {100 * share[-1]:.0f} %; by "
        f"chance {100 * chance[0]:.0f} … {100 * chance[2]:.0f} %"
    )
    return Shares(loss, share, chance)


Bases = list[tuple[np.ndarray, np.ndarray]]


def _bases(weights: np.ndarray) -> Bases:
    """Of every head, singular vectors of what is learned."""
    found = []
    for w in weights:
        u, s, vt = svd(w)
        rank = int(np.sum(s > 1e-6 * np.max(np.abs(weights))))
        found.append((u[:, :rank], vt[:rank].T))
    return found


def _turned(
    bases: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random spaces of the same dimensions."""
    left, right = (np.linalg.qr(rng.normal(size=b.shape))[0] for b in bases)
    return left, right


def _share(changes: dict[str, np.ndarray], bases: dict[str, Bases]) -> float:
    inside = whole = 0.0
    for name, heads in bases.items():
        for change, (u, v) in zip(changes[name], heads, strict=True):
            if u.shape[1]:
                inside += float(np.sum((u.T @ change @ v) ** 2))
                whole += float(np.sum(change**2))
    return inside / whole
