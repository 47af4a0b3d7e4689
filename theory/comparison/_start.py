"""Claims about where a run starts: factors, data, decay, and the loss there."""

import dataclasses
import math

import numpy as np

from gflow import Trajectory
from gflow.internal import start_factors

from .._prediction import Prediction
from .._stage import by_leaf
from ._claims import CONFIRMED, REFUTED, SHARE, Allowed, Claim, judged, label_claim
from ._readings import BEYOND, Plateau, Reader


def start_claims(prediction: Prediction, reader: Reader, rest: Plateau) -> list[Claim]:
    """The same factors, data and decay, and the loss the flow starts from."""
    run = reader.trajectory
    claims = problem_claims(prediction, run)
    zero = not any(np.any(x) for x in by_leaf(prediction.start.value).values())
    dormant = run.log_alpha < 0 and all(
        np.max(leaf.at(slice(0, 1)).log_modes(), initial=-math.inf) < 0.5 * run.log_alpha
        for leaf in run.leaves.values()
    )
    loss = prediction.start.loss
    if zero and dormant:
        first = {n: leaf.at(0) for n, leaf in run.leaves.items()}
        left = sum(float(np.sum(np.abs(x["force"] * x["value"]))) for x in first.values())
        allowed = Allowed(2.0 * left, "the weights at the start", "a smaller α")
        measured, bar = float(run.loss[0]), 0.0
    else:
        size = BEYOND * rest.loss_moved
        allowed = Allowed(size, "what the run moves on its first plateau", "a smaller α")
        measured, bar = rest.loss, rest.loss_bar
    rounding = 1e-9 * max(abs(loss), abs(measured))
    allowed = dataclasses.replace(allowed, floor=rounding)
    step = max(abs(loss - s.loss) for s in prediction.stages) if prediction.stages else abs(loss)
    sharp = max(SHARE * step, 2.0 * rounding)
    return [*claims, judged("start.loss", loss, measured, bar, allowed, sharp, "loss")]


def problem_claims(prediction: Prediction, run: Trajectory) -> list[Claim]:
    """The same factors, data, decay and velocity, as far as both know what they were made from."""
    mine, theirs = prediction.fingerprint, run.fingerprint
    claims: list[Claim] = []
    if mine is None:
        return claims
    if mine.elapsed != theirs.elapsed and mine.factors is not None and run.resolver is not None:
        # predicted from a later point of a run: what this run is there
        model = run.model(t=mine.elapsed) if run.t[0] <= mine.elapsed <= run.t[-1] else None
        factors = None if model is None else start_factors(model, run.log_alpha)
        theirs = dataclasses.replace(theirs, factors=factors, tolerance=1e-5)
    for part in ("factors", "data", "decay", "velocity"):
        known = getattr(mine, part), getattr(theirs, part)
        if None in known or not any(known):
            continue
        found = mine.difference(theirs, part)
        verdict = CONFIRMED if found is None else REFUTED
        measured = "the same" if found is None else "other"
        words = "equal" if found is None else f"{found} (prediction against run)"
        claims.append(label_claim(f"start.{part}", "the same", measured, verdict, words))
    return claims
