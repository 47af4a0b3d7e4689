"""Claims about the path as a whole: no transitions but those predicted, and rest after them."""

import math
from typing import Any

import numpy as np

from gflow import Trajectory
from gflow.internal import Constant

from .._prediction import Prediction
from ._claims import CONFIRMED, REFUTED, UNDECIDED, Claim, label_claim
from ._readings import Reader


def path_claims(
    prediction: Prediction, reader: Reader, rows: list[float], count: int, reached: bool
) -> list[Claim]:
    """Whether the run has transitions that are not predicted, and whether it has come to rest.

    `rows`: flow times of the transitions judged, of all that merge; `reached`: the run has them
    all. A further one refutes if the run rests on both sides of it; else it may be a part of one.
    """
    run, claims = reader.trajectory, []
    extra = reader.besides(rows)
    last = max(rows, default=-math.inf)
    between, after = [t for t in extra if t < last], [t for t in extra if t > last]
    n = count
    if rows:
        claims.append(_between(reader, rows, n, between))
    complete = prediction.ended.startswith("complete")
    said = f"{n} transitions and no more" if complete else f"{n} transitions, {prediction.ended}"
    measured, verdict, words = said, CONFIRMED, "the run has come to rest"
    if after and reached:
        verdict = REFUTED if complete and any(reader.apart(t) for t in after) else UNDECIDED
        measured = f"{n + len(after)} transitions"
        words = f"the run goes on at t = {', '.join(f'{t:.6g}' for t in after)}"
    elif not complete:
        return claims
    elif not reached:
        verdict, measured = UNDECIDED, "a run that ends before"
        words = "a longer run would decide"
    elif growing := _still_growing(run):
        verdict, measured, words = UNDECIDED, "a run not at rest", growing
    return [*claims, label_claim("path.complete", said, measured, verdict, words)]


def _between(reader: Reader, rows: list[float], n: int, extra: list[float]) -> Claim:
    key, said = "path.transitions", f"{n} up to t = {max(rows):.6g}"
    if not extra:
        return label_claim(key, said, said, CONFIRMED, "no others")
    far = [t for t in extra if reader.apart(t)]
    listed = ", ".join(f"{t / reader.trajectory.scale:.6g}" for t in extra)
    measured = f"{n + len(extra)}, further ones at τ = {listed}"
    if far:
        return label_claim(key, said, measured, REFUTED, "no prediction explains them")
    words = "not apart enough from the others to be told from a part; a smaller α would decide"
    return label_claim(key, said, measured, UNDECIDED, words)


def _still_growing(run: Trajectory) -> str | None:
    """Whether a dormant weight becomes O(1) within ten times the run at the rate it has."""
    if not run.successful:
        return f"the run failed ({run.status})"
    end = float(run.t[-1])
    decay = {} if run.resolver is None else _rates(run.resolver.flow)
    for name, leaf in run.leaves.items():
        last = leaf.at(-1)
        sizes = last.log_modes()
        if leaf.spectral:
            dormant = sizes < 0.5 * run.log_alpha
            force = np.linalg.norm(last["force"], ord=2, axis=(-2, -1))[..., None]
        else:
            dormant, force = sizes < 0.5 * run.log_alpha, np.abs(last["force"])
        rate = 2.0 * np.maximum(force - decay.get(name, 0.0) * (1.0 + 1e-6), 0.0)
        with np.errstate(invalid="ignore"):
            grows = dormant & (rate * 10.0 * end > -sizes)
        if np.any(grows):
            return f"a dormant weight of {name} still grows at its end; a longer run would decide"
    return None


def _rates(flow: Any) -> dict[str, float]:
    rates = {}
    for name, rate in zip(flow.names, flow.decay, strict=True):
        if isinstance(rate, Constant):
            rates[name] = float(rate.value)
    return rates
