"""Claims about the path as a whole: no transitions but those predicted, and rest after them."""

import math
from typing import Any

import numpy as np

from gflow import Trajectory
from gflow.internal import Constant, Crossing, LeafRecord

from .._prediction import Prediction
from ._claims import CONFIRMED, REFUTED, UNDECIDED, Claim, label_claim
from ._readings import Reader


def path_claims(
    prediction: Prediction,
    reader: Reader,
    rows: list[Crossing],
    count: int,
    reached: bool,
    pausing: list[int],
) -> list[Claim]:
    """Whether the run has transitions that are not predicted, and whether it has come to rest.

    `rows`: crossings of the transitions judged, of all that merge; `reached`: the run has them
    all; `pausing`: stages whose orbits pause on their way. A further one refutes if the run rests
    on both sides of it; else it may be a part of one.
    """
    run, claims = reader.trajectory, []
    extra = reader.besides([row.clock for row in rows])
    last = max((row.clock for row in rows), default=-math.inf)
    between = [i for i in extra if reader.peaks[i][0] < last]
    after = [i for i in extra if reader.peaks[i][0] > last]
    n = count
    if rows:
        claims.append(_between(reader, max(row.t for row in rows), n, between, pausing))
    complete = prediction.ended.startswith("complete")
    said = f"{n} transitions and no more" if complete else f"{n} transitions, {prediction.ended}"
    measured, verdict, words = said, CONFIRMED, "the run has come to rest"
    if after and reached:
        verdict = REFUTED if complete and any(reader.apart(i) for i in after) else UNDECIDED
        measured = f"{n + len(after)} transitions"
        words = f"the run goes on at t = {', '.join(f'{reader.flow_times[i]:.6g}' for i in after)}"
    elif not complete:
        return claims
    elif not reached:
        verdict, measured = UNDECIDED, "a run that ends before"
        words = "a longer run would decide"
    elif growing := _still_growing(run):
        verdict, measured, words = UNDECIDED, "a run not at rest", growing
    return [*claims, label_claim("path.complete", said, measured, verdict, words)]


def _between(reader: Reader, last: float, n: int, extra: list[int], pausing: list[int]) -> Claim:
    key, said = "path.transitions", f"{n} up to t = {last:.6g}"
    if not extra:
        numbers = ", ".join(str(k + 1) for k in pausing)
        words = f"; a pause on the orbit of stage {numbers}, as predicted" if numbers else ""
        return label_claim(key, said, said, CONFIRMED, f"no others{words}")
    far = [i for i in extra if reader.apart(i)]
    scale = reader.trajectory.scale
    listed = ", ".join(f"{reader.flow_times[i] / scale:.6g}" for i in extra)
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
        if not (leaf.spectral or leaf.entrywise):
            if _unit_grows(last, sizes, 0.5 * run.log_alpha, 10.0 * end):
                return f"a dormant unit of {name} still grows at its end; a longer run would decide"
            continue
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


def _unit_grows(last: LeafRecord, sizes: np.ndarray, small: float, wait: float) -> bool:
    """Whether a dormant unit, whose size grows as a power of itself, blows up within `wait`."""
    norms, along = last.modes()
    with np.errstate(divide="ignore", invalid="ignore"):
        return bool(np.any((sizes < small) & (along / norms * wait > 1.0)))


def _rates(flow: Any) -> dict[str, float]:
    rates = {}
    for name, rate in zip(flow.names, flow.decay, strict=True):
        if isinstance(rate, Constant):
            rates[name] = float(rate.value)
    return rates
