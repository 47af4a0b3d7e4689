"""Limits of stage times from two runs at different α."""

import dataclasses
from typing import Any

import numpy as np

from gflow import Trajectory
from gflow.internal import (
    Coordinate,
    coordinate_label,
)


@dataclasses.dataclass(frozen=True)
class Extrapolated:
    """Limit of one transition from runs at two α: T, C and the winner."""

    tau: float
    offset: float
    error: float
    winner: str


def extrapolate(trajectories: list[Trajectory]) -> list[Extrapolated]:
    """Log-Richardson limits (Λ₂τ₂ − Λ₁τ₁)/(Λ₂ − Λ₁) of the stages both runs show.

    With τ_k(α) = T_k + C_k/Λ + (a power of α), two runs of the same O(1) factors give
    T_k and C_k. Stages are matched by their winner, in order.

    **Raises:** ValueError unless there are two runs, with equal factors, data and decay and
    different α.
    """
    if len(trajectories) != 2:
        raise ValueError(f"extrapolate needs two trajectories, was given {len(trajectories)}.")
    first, second = sorted(trajectories, key=lambda run: run.scale)
    check_same_problem([first, second])
    remaining = list(second.stages())
    out = []
    for one in first.stages():
        winner = _winner(one)
        two = next((s for s in remaining if winner and _winner(s) == winner), None)
        if two is None:
            continue
        remaining = remaining[remaining.index(two) + 1 :]
        gap = second.scale - first.scale
        tau = (two.t - one.t) / gap
        out.append(
            Extrapolated(tau, one.t - tau * first.scale, (one.error + two.error) / gap, winner)
        )
    return out


def _winner(stage: Any) -> str:
    if not stage.activated:
        return ""

    def size(coordinate: Coordinate) -> float:
        name, index = coordinate
        value = np.asarray(stage.value[name])
        if value.ndim > len(index):  # a mode of a matrix
            return float(np.linalg.svdvals(value[index[:-1]])[index[-1]])
        return abs(float(value[index]))

    return coordinate_label(max(stage.activated, key=size))


def check_same_problem(runs: list[Trajectory]) -> None:
    """**Raises:** ValueError unless two runs differ in α and in nothing else."""
    if runs[0].scale == runs[1].scale:
        raise ValueError(
            f"Both runs have Λ = {runs[0].scale:.6g}; extrapolation needs two values of α. "
            "Use gflow.rescale(model, log_alpha)."
        )
    one, two = (run.fingerprint for run in runs)
    if one.factors is None or two.factors is None:
        raise ValueError(
            "A loaded run does not know its factors: Trajectory.load(path, like=model)."
        )
    if found := one.difference(two, "factors"):
        raise ValueError(
            f"The two runs have different O(1) factors ({found}), so their C_k differ and the "
            "limit would be wrong. Make the second with gflow.rescale(model, log_alpha)."
        )
    parts = {
        "data": "another loss or other data",
        "decay": "another decay",
        "velocity": "another velocity",
    }
    for part, words in parts.items():
        if found := one.difference(two, part):
            raise ValueError(
                f"The second run has {words} than the first ({found}): their stages have no "
                "common limit. Run both with one objective and one decay."
            )
