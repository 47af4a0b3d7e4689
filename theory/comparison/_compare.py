"""Prediction against simulation: every claim judged, one row a transition, curve or number."""

import dataclasses
import math
from collections.abc import Sequence
from typing import overload

import numpy as np

from gflow import Trajectory
from gflow.internal import (
    Crossing,
    Quantity,
    first_crossing,
    instance,
    one_thread,
    rank_label,
    unit_name,
)

from .._extrapolate import check_same_problem
from .._prediction import Prediction
from .._stage import by_leaf
from ._allowance import allowances
from ._batch import BatchComparison
from ._claims import REFUTED, Claim, worst
from ._closed_forms import ClosedFormRow, curve_row, number_row
from ._comparison import Comparison, Row
from ._orbits import PredictedOrbits
from ._path import path_claims
from ._plateaus import Resting
from ._readings import Plateau, Reader, measure
from ._start import problem_claims, start_claims
from ._times import Timed, limit_claims, merged_claim, time_claim


@overload
def compare(
    trajectory: Trajectory, prediction: Prediction, *, second: Trajectory | None = None
) -> Comparison: ...
@overload
def compare(
    trajectory: Sequence[Trajectory],
    prediction: Prediction | Sequence[Prediction],
    *,
    second: None = None,
) -> BatchComparison: ...
@one_thread
def compare(
    trajectory: Trajectory | Sequence[Trajectory],
    prediction: Prediction | Sequence[Prediction],
    *,
    second: Trajectory | None = None,
) -> Comparison | BatchComparison:
    """Judge everything a prediction claims by a run.

    **Arguments:** `trajectory`: the run, or many of them, such as a `gflow.Batch`. `prediction`:
    from `theory.gradual_rank.predict` or another `Prediction`, yours included (`Prediction.of`); of
    many runs one for all (the same factors at several α) or one for each
    (`theory.gradual_rank.predict_batch`). `second`: the same factors at another α, best α², from
    which T and C of stages are judged one by one, T̂ = (t₂ − t₁)/(Λ₂ − Λ₁) and Ĉ = t₁ − T̂Λ₁.

    **Judged:** of each transition its time (the first crossing of the prediction's level after
    the weight was last switched off), what switches, and the loss, weights, ranks and shares of
    the plateau after it; that run and prediction start from one problem; that the run has no
    other transitions and has come to rest. What falls as a predicted orbit does at those times is
    part of it, though the orbit may pause near another saddle on its way, and a run that ends in
    such a pause is allowed what the orbit has still ahead. Transitions predicted to overtake each
    other at this α (`prediction.at(log_alpha).exists`) make one merged row, whose time is not
    predicted.

    Of each curve every recorded time and entry, by the run's error bar there: the row shows the
    one that decides. Of each number the number.

    **Verdicts:** "confirmed", "refuted" or "undecided"; finite α is allowed what
    `theory.remainder` derives from the orbits (`theory.allowance` says what is done without).

    **Returns:** a `Comparison`; of many runs a `BatchComparison`, a sequence of them.

    **Raises:** ValueError when leaves differ, an observable was not recorded, a curve has another
    shape than it, `second` is another problem or has equal α, or there are not as many predictions
    as runs.

    ```python
    table = theory.compare(trajectory, prediction)
    print(table); table.passed; table.counts
    ```
    """
    made = "a run by gflow.simulate comes first, then theory.gradual_rank.predict's result"
    if isinstance(trajectory, Sequence) and not isinstance(trajectory, str):
        return _many(trajectory, prediction, second)
    run = instance("trajectory", trajectory, Trajectory, made).whole
    claimed = instance("prediction", prediction, Prediction, made)
    if second is not None and not claimed.staged:
        raise ValueError(
            "second= is a run at another α, from which T and C of stages are found. This "
            "prediction has none: compare the second run with it by itself."
        )
    if second is not None:
        again = instance("second", second, Trajectory, "a run at another α").whole
        check_same_problem([run, again])
        second = again
    if claimed.staged:
        rows, general = _path(run, claimed, second)
    else:
        rows, general = [], problem_claims(claimed, run)
    parts: list[ClosedFormRow] = [curve_row(run, curve) for curve in claimed.curves]
    parts += [number_row(run, number) for number in claimed.numbers]
    return Comparison([*rows, *parts], run, claimed, tuple(general))


def _many(
    runs: Sequence[Trajectory],
    prediction: Prediction | Sequence[Prediction],
    second: Trajectory | None,
) -> BatchComparison:
    if second is not None:
        raise ValueError(
            "second= is for one run. Of a batch compare(batch[i], prediction, second=other) takes "
            "one for member i."
        )
    if isinstance(prediction, Prediction):
        prediction = [prediction] * len(runs)
    if not isinstance(prediction, Sequence) or len(prediction) != len(runs):
        given = len(prediction) if isinstance(prediction, Sequence) else f"{prediction!r:.80}"
        raise ValueError(
            f"{len(runs)} runs and {given} as predictions were given: pass one Prediction for all, "
            "or one for each run in a list (theory.gradual_rank.predict_batch)."
        )
    return BatchComparison([compare(*pair) for pair in zip(runs, prediction, strict=True)])


def _path(
    run: Trajectory, prediction: Prediction, second: Trajectory | None
) -> tuple[list[Row], list[Claim]]:
    _check_leaves(run, prediction)
    first = _timed(run, prediction)
    other = None if second is None else _timed(second, prediction)
    groups = _groups(prediction.at(run.log_alpha).exists, first)
    orbits = PredictedOrbits(prediction, first.crossings, Reader.of(run))
    owners = orbits.owners([group[0] for group in groups if len(group) == 1])
    reader = orbits.reader.joined(owners)
    pausing = [k for k in range(len(prediction.stages)) if owners.count(k) > 1]
    return _Judge(prediction, first, other, reader, orbits, groups).judged(pausing)


def _timed(run: Trajectory, prediction: Prediction) -> Timed:
    crossings = measure(run, prediction)
    measured = np.array([math.nan if c is None else c.t for c in crossings])
    offsets = prediction.at(run.log_alpha).offset
    return Timed(run, crossings, allowances(prediction, run.log_alpha, measured), offsets)


def _groups(exists: np.ndarray, run: Timed) -> list[list[int]]:
    """Stages that happen one by one, and together those with no plateau between them.

    One is there if the prediction's times leave it, or those of the run do and it is formed.
    """
    groups: list[list[int]] = []
    for k in range(len(exists)):
        if groups and not (exists[k - 1] or run.allowances[k - 1].exists):
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups


@dataclasses.dataclass(frozen=True, eq=False)
class _Judge:
    prediction: Prediction
    first: Timed
    second: Timed | None
    reader: Reader
    orbits: PredictedOrbits
    groups: list[list[int]]

    def judged(self, pausing: list[int]) -> tuple[list[Row], list[Claim]]:
        run, prediction = self.first.run, self.prediction
        start = float(run.times[0])
        known = [c.clock for c in self.first.crossings if c is not None]
        before = self.reader.plateau(start, min(known, default=self.reader.end))
        general = start_claims(prediction, self.reader, before)
        rows, times, count, reached = [], [], 0, True
        doubtful: dict[str, np.ndarray] = {}
        formed = True
        for group in self.groups:
            found = self._crossing(group)
            claims = self._time_claims(group, found)
            if not claims:
                reached = False
                continue
            plateau = None
            if found is not None:
                members = [self.first.crossings[k] for k in group]
                times += [found, *(c for c in members if c is not None)]
                count += len(group)
                resting = self._resting(group, found, before, doubtful, formed)
                claims += resting.claims()
                plateau = before = resting.plateau
                doubtful, formed = resting.doubtful, resting.allowance.exists
            else:
                reached = False
            rows.append(self._row(group, found, plateau, claims))
        general += path_claims(prediction, self.reader, times, count, reached, pausing)
        return rows, general

    def _crossing(self, group: list[int]) -> Crossing | None:
        """Of a merged group: the loss midway between the plateaus around it."""
        if len(group) == 1:
            return self.first.crossings[group[0]]
        stages = self.prediction.stages
        before = self.prediction.start if group[0] == 0 else stages[group[0] - 1]
        middle = 0.5 * (before.loss + stages[group[-1]].loss)
        return first_crossing(self.first.run, Quantity(sign=-1.0), -middle)

    def _time_claims(self, group: list[int], found: Crossing | None) -> list[Claim]:
        if len(group) > 1:
            merged = merged_claim(self.prediction, group, self.first, found)
            return [] if merged is None else [merged]
        own = time_claim(self.prediction, group[0], self.first)
        if own is None:
            return []
        if self.second is None:
            return [own]
        limits = limit_claims(self.prediction, group[0], self.first, self.second)
        unknown = math.isnan(self.first.offsets[group[0]])
        return limits if unknown and limits and own.verdict != REFUTED else [own, *limits]

    def _resting(
        self,
        group: list[int],
        found: Crossing,
        before: Plateau,
        doubtful: dict[str, np.ndarray],
        formed: bool,
    ) -> Resting:
        k, run = group[-1], self.first.run
        after = [c.clock for c in self.first.crossings[k + 1 :] if c is not None]
        later = [clock for clock in after if clock > found.clock]
        right = min(later, default=self.reader.next_transition(found.clock))
        allowance = self.first.allowances[k]
        at = None
        if len(group) == 1 and allowance.exists and allowance.match is not None:
            at = found.clock + allowance.match
        matched = at is not None and found.clock < at < right and run.resolver is not None
        plateau = self.reader.plateau(found.clock, right, at if matched else None)
        return Resting(
            self.prediction, group, self.reader, plateau, before, doubtful, allowance, matched,
            formed, None if matched or len(group) > 1 else self.orbits.ahead(k, plateau.t),
        )  # fmt: skip

    def _row(self, group, found, plateau: Plateau | None, claims: list[Claim]) -> Row:
        scale, single = self.first.run.scale, len(group) == 1
        last, time = self.prediction.stages[group[-1]], claims[0]
        t, error = (math.nan, math.nan) if found is None else (found.t, found.error)
        limit = math.nan
        if single and self.second is not None:
            one, two = (x.crossings[group[0]] for x in (self.first, self.second))
            if one is not None and two is not None:
                limit = (two.t - one.t) / (self.second.run.scale - scale)
        ranks = {}
        if plateau is not None:
            names = by_leaf(last.value)
            ranks = {n: np.sum(a, axis=-1) for n, a in plateau.active.items() if n in names}
        offset = float(self.first.offsets[group[-1]])
        predicted = last.tau + offset / scale
        return Row(
            stage=f"{group[0] + 1}" if single else f"{group[0] + 1}–{group[-1] + 1}",
            switches=" ".join(self.prediction.stages[i].label for i in group),
            tau_limit=last.tau,
            tau_predicted=predicted,
            tau_measured=t / scale,
            error=error / scale,
            z=(t / scale - predicted) / (error / scale) if error > 0 else math.nan,
            offset_predicted=offset if single else math.nan,
            offset_measured=t - last.tau * scale if single else math.nan,
            limit=limit,
            tolerance=time.tolerance / scale,
            loss_predicted=last.loss,
            loss_measured=math.nan if plateau is None else plateau.loss,
            rank_predicted=rank_label(last.rank),
            rank_measured=rank_label(ranks),
            verdict=worst([claim.verdict for claim in claims]),
            claims=tuple(claims),
        )


def _check_leaves(trajectory: Trajectory, prediction: Prediction) -> None:
    """The prediction's leaves are the run's, with equal shapes."""
    shapes = {n: v.shape for n, v in by_leaf(prediction.start.value).items()}
    present = {n: leaf["value"].shape[1:] for n, leaf in trajectory.leaves.items()}
    if prediction.staged and prediction.order != trajectory.order:
        raise ValueError(
            f"The prediction is of saddles of order {prediction.order}, whose times count "
            f"{unit_name(prediction.order)}, and the run starts near one of order "
            f"{trajectory.order} (run.order): they belong to different models. In a prediction of "
            "your own say order=."
        )
    if any(present.get(n) != shape for n, shape in shapes.items()):
        raise ValueError(
            f"The prediction is about leaves {shapes}, the run about {present} (name: shape): "
            "they belong to different models."
        )
