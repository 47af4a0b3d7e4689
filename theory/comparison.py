"""Prediction against simulation: one row a transition, with error bars and a verdict."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from gflow.crossings import Crossing, Quantity, first_crossing
from gflow.parameters import Small, is_parameter
from gflow.stages import active_weights, plateau_steps
from gflow.trajectory import Trajectory

from .prediction import Coordinate, Prediction, coordinate_label

#: Disagreement, in e-folds of the winner's growth, that still counts as agreement.
AGREEMENT = 0.01

#: What the remainder beyond C/Λ may amount to at finite α, in the same unit.
FINITE_ALPHA = 2.0

#: What C itself may amount to where it is not predicted, in the same unit.
LIMIT_ONLY = 20.0

#: Share of the largest weight below which one on its way is not yet counted.
MATTERS = 1e-3

VERDICTS = {
    "agrees": "the finite-α prediction T + C/Λ is met to a hundredth of an e-fold",
    "within the error bar": "the difference is no larger than the solver's error bar",
    "near-tie": "another weight is about to switch as well: see margin, or take a smaller α",
    "within |C|/Λ": "explained by finite α: the remainder beyond C/Λ is a power of α",
    "merged": "at this α the transitions are predicted to overtake each other",
    "limit only": "no C_k predicted: the time is O(1/Λ) from its limit",
    "unexplained": "outside every bound",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One transition, or several that merge at this α.

    Times are τ; `offset_*` are C = (τ − T)·Λ in flow time; `limit` is the log-Richardson
    limit from a second run; `tolerance` is the bound on |τ measured − τ predicted| that
    the verdict stands for; `loss_*` and `rank_*` belong to the plateau after it.
    """

    stage: str
    switches: str
    tau_limit: float
    tau_predicted: float
    tau_measured: float
    error: float
    offset_predicted: float
    offset_measured: float
    limit: float
    tolerance: float
    loss_predicted: float
    loss_measured: float
    rank_predicted: str
    rank_measured: str
    verdict: str

    @property
    def passed(self) -> bool:
        return self.verdict != "unexplained"


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Rows of predicted against measured transitions; `passed` when all are explained."""

    rows: list[Row]
    trajectory: Trajectory
    prediction: Prediction

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    def to_dataframe(self):
        """The rows as a `pandas.DataFrame`."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows])

    def to_xarray(self):
        """The rows as an `xarray.Dataset` over `stage`."""
        return self.to_dataframe().set_index("stage").to_xarray()

    def plot(self, ax=None):
        """Loss against τ: simulated, predicted at this α, and the limit staircase."""
        from . import plot

        return plot.comparison(self, ax=ax)

    def __str__(self) -> str:
        head = [
            "stage", "switches", "T", "τ measured", "±", "C pred.", "C meas.", "τ → limit",
            "loss pred.", "loss meas.", "rank pred.", "rank meas.", "verdict",
        ]  # fmt: skip
        table = [head]
        for r in self.rows:
            table.append(
                [
                    r.stage,
                    r.switches,
                    f"{r.tau_limit:.6f}",
                    f"{r.tau_measured:.6f}",
                    f"{r.error:.0e}",
                    f"{r.offset_predicted:.5f}",
                    f"{r.offset_measured:.5f}",
                    "" if math.isnan(r.limit) else f"{r.limit:.6f}",
                    f"{r.loss_predicted:.5g}",
                    f"{r.loss_measured:.5g}",
                    r.rank_predicted,
                    r.rank_measured,
                    r.verdict,
                ]
            )
        if all(math.isnan(r.limit) for r in self.rows):
            table = [row[:7] + row[8:] for row in table]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table]
        lines.insert(1, "  ".join("-" * w for w in widths))
        scale = self.trajectory.scale
        title = f"α = 10^{-scale / math.log(10):.6g} (Λ = {scale:.6g}); {self.prediction.source}"
        return "\n".join([title, *(line.rstrip() for line in lines)])


def compare(
    trajectory: Trajectory, prediction: Prediction, *, second: Trajectory | None = None
) -> Comparison:
    """Match every predicted transition with the run, and judge it.

    **Arguments:** `trajectory`: the run. `prediction`: from `theory.gradual_rank.predict`
    or another `Prediction`. `second`: the same factors at another α, best α², for the
    log-Richardson limit (Λ₂τ₂ − Λ₁τ₁)/(Λ₂ − Λ₁) of every row.

    A time is the first crossing of the prediction's level after the weight was last
    switched off. Transitions predicted to overtake each other at this α
    (`prediction.at(log_alpha).exists`) make one merged row.

    **Raises:** ValueError when leaves differ, or `second` has other factors or equal α.
    """
    _check_leaves(trajectory, prediction)
    finite = prediction.at(trajectory.log_alpha)
    crossings = measure(trajectory, prediction)
    others: list[Crossing | None] = [None] * len(crossings)
    if second is not None:
        _check_same_factors([trajectory, second])
        others = measure(second, prediction)
    judge = _Judge(trajectory, prediction, finite, crossings)
    rows = []
    for group in finite.merged:
        end = group[-1]
        if len(group) > 1:
            row = judge.merged(group)
        else:
            row = judge.single(end, _limit(trajectory, second, crossings[end], others[end]))
        if row is not None:
            rows.append(row)
    return Comparison(rows, trajectory, prediction)


def measure(trajectory: Trajectory, prediction: Prediction) -> list[Crossing | None]:
    """When the run crosses each stage's level; None where it does not."""
    found: list[Crossing | None] = []
    for k, stage in enumerate(prediction.stages):
        if stage.level is None:
            found.append(None)
            continue
        what, value = stage.level
        if what == "loss":
            found.append(first_crossing(trajectory, Quantity(sign=-1.0), -value))
            continue
        start = 0
        for earlier in range(k):
            if what in prediction.stages[earlier].deactivated:
                switched_off = found[earlier]
                start = len(trajectory.t) if switched_off is None else switched_off.step
        quantity = Quantity(what[0], what[1], math.copysign(1.0, value))
        found.append(first_crossing(trajectory, quantity, abs(value), start))
    return found


@dataclasses.dataclass(frozen=True)
class _Judge:
    trajectory: Trajectory
    prediction: Prediction
    finite: Any
    crossings: list[Crossing | None]

    def single(self, k: int, limit: float) -> Row | None:
        stage, crossing = self.prediction.stages[k], self.crossings[k]
        predicted = float(self.finite.t[k]) if math.isfinite(stage.offset) else math.nan
        if crossing is None:
            limit_time = stage.tau * self.trajectory.scale
            if self._beyond(predicted if math.isfinite(predicted) else limit_time):
                return None
            return self._row([k], None, limit, "unexplained", math.nan)
        verdict, bound = self._verdict(k, crossing, predicted)
        return self._row([k], crossing, limit, verdict, bound)

    def merged(self, group: list[int]) -> Row | None:
        """One visible jump: the loss midway between the plateaus around the group."""
        stages = self.prediction.stages
        before = self.prediction.start if group[0] == 0 else stages[group[0] - 1]
        middle = 0.5 * (before.loss + stages[group[-1]].loss)
        crossing = first_crossing(self.trajectory, Quantity(sign=-1.0), -middle)
        if crossing is None:
            if self._beyond(float(np.max(self.finite.t[group]))):
                return None
            return self._row(group, None, math.nan, "unexplained", math.nan)
        return self._row(group, crossing, math.nan, "merged", math.nan)

    def _beyond(self, t: float) -> bool:
        return t > float(self.trajectory.t[-1])

    def _verdict(self, k: int, crossing: Crossing, predicted: float) -> tuple[str, float]:
        """The strictest bound that holds, and its size in flow time."""
        stage = self.prediction.stages[k]
        rate = stage.rate if math.isfinite(stage.rate) else 1.0
        if math.isnan(predicted):
            limit = stage.tau * self.trajectory.scale
            bound = LIMIT_ONLY / rate
            return ("limit only" if abs(crossing.t - limit) <= bound else "unexplained"), bound
        miss = abs(crossing.t - predicted)
        # a rival changes the time by as long as the two weights need to part
        tie = stage.margin * self.trajectory.scale + abs(stage.offset) + 10.0 / rate
        for verdict, bound in (
            ("agrees", AGREEMENT / rate),
            ("within the error bar", crossing.error),
            ("near-tie", tie if self.finite.near_tie[k] else 0.0),
            ("within |C|/Λ", FINITE_ALPHA / rate),
        ):
            if miss <= bound:
                return verdict, bound
        return "unexplained", bound

    def _plateau(self, k: int) -> int:
        """Recorded step that rests longest between this transition and the next."""
        trajectory = self.trajectory
        here = self.crossings[k]
        start = 0 if here is None else here.step + 1
        later = [c.step for c in self.crossings[k + 1 :] if c is not None and c.step > start]
        stop = min(later) + 1 if later else len(trajectory.t)
        inside = [s for s in plateau_steps(trajectory.descent) if start <= s < stop]
        if inside:
            return inside[0]
        return start + int(np.argmin(trajectory.descent[start:stop]))

    def _rank_at(self, k: int, waited: float) -> Any:
        """Ranks predicted at this α, where weights may still be on their way."""
        if self.prediction.orbits is None:
            return self.prediction.stages[k].rank
        logs = self.prediction.orbits.log_weights(k + 1, self.trajectory.scale, np.array(waited))
        least = max(np.max(v) for v in logs.values()) + math.log(MATTERS)
        return {n: np.sum(v > least, axis=-1) for n, v in logs.items()}

    def _row(self, group, crossing: Crossing | None, limit, verdict, bound) -> Row:
        scale = self.trajectory.scale
        t, error, plateau = math.nan, math.nan, None
        if crossing is not None:
            t, error, plateau = crossing.t, crossing.error, self._plateau(group[-1])
        last = self.prediction.stages[group[-1]]
        single = len(group) == 1
        measured_loss, measured_rank = math.nan, ""
        predicted_rank = _rank_label(last.rank)
        if plateau is not None:
            measured_loss = float(self.trajectory.loss[plateau])
            active = active_weights(self.trajectory, plateau)
            rank = {n: a.sum(axis=-1) for n, a in active.items()}
            measured_rank = _rank_label(rank)
            at_alpha = self._rank_at(group[-1], float(self.trajectory.t[plateau]) - t)
            if single and verdict != "near-tie" and not _between(rank, last.rank, at_alpha):
                verdict = "unexplained"
        return Row(
            stage=f"{group[0] + 1}" if single else f"{group[0] + 1}–{group[-1] + 1}",
            switches=" ".join(self.prediction.stages[i].label for i in group),
            tau_limit=last.tau,
            tau_predicted=float(self.finite.tau[group[-1]]),
            tau_measured=t / scale,
            error=error / scale,
            offset_predicted=last.offset if single else math.nan,
            offset_measured=t - last.tau * scale if single else math.nan,
            limit=limit,
            tolerance=bound / scale,
            loss_predicted=last.loss,
            loss_measured=measured_loss,
            rank_predicted=predicted_rank,
            rank_measured=measured_rank,
            verdict=verdict,
        )


def _between(rank: dict[str, Any], one: Any, other: Any) -> bool:
    """Each rank between that of the limit and that at this α: weights on their way may count."""
    if not isinstance(one, dict):
        one, other = ({n: r for n in rank} for r in (one, other))
    return all(
        np.all((np.minimum(one[n], other[n]) <= r) & (r <= np.maximum(one[n], other[n])))
        for n, r in rank.items()
    )


def _rank_label(rank: Any) -> str:
    """Ranks by leaf, heads separated by commas: `kq 1,0 vo 1,1`."""
    if not isinstance(rank, dict):
        return str(int(rank))
    parts = [f"{n} {','.join(str(int(r)) for r in np.ravel(v))}" for n, v in rank.items()]
    return " ".join(parts)


def _limit(first, second, one: Crossing | None, two: Crossing | None) -> float:
    if second is None or one is None or two is None:
        return math.nan
    return (two.t - one.t) / (second.scale - first.scale)


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

    **Raises:** ValueError unless there are two runs, with equal factors and different α.
    """
    if len(trajectories) != 2:
        raise ValueError(f"extrapolate needs two trajectories, was given {len(trajectories)}.")
    first, second = sorted(trajectories, key=lambda run: run.scale)
    _check_same_factors([first, second])
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
            return float(np.linalg.svd(value[index[:-1]], compute_uv=False)[index[-1]])
        return abs(float(value[index]))

    return coordinate_label(max(stage.activated, key=size))


def _check_leaves(trajectory: Trajectory, prediction: Prediction) -> None:
    """The prediction's leaves are the run's, with equal shapes."""
    predicted = prediction.start.value
    if not isinstance(predicted, dict):
        predicted = {"weight": predicted}
    shapes = {n: np.shape(v) for n, v in predicted.items()}
    present = {n: leaf["value"].shape[1:] for n, leaf in trajectory.leaves.items()}
    if any(present.get(n) != shape for n, shape in shapes.items()):
        raise ValueError(
            f"The prediction is about leaves {shapes}, the run about {present} (name: shape): "
            "they belong to different models."
        )


def _check_same_factors(runs: list[Trajectory]) -> None:
    if runs[0].scale == runs[1].scale:
        raise ValueError(
            f"Both runs have Λ = {runs[0].scale:.6g}; extrapolation needs two values of α. "
            "Use gflow.rescale(model, log_alpha)."
        )
    factors = []
    for run in runs:
        if run.like is None:
            raise ValueError(
                "A loaded run does not know its factors: Trajectory.load(path, like=model)."
            )
        nodes = jax.tree.leaves(run.like, is_leaf=is_parameter)
        factors.append([n.unscaled() for n in nodes if isinstance(n, Small)])
    same = len(factors[0]) == len(factors[1]) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-9)
        for one, two in zip(*factors, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    if not same:
        raise ValueError(
            "The two runs have different O(1) factors, so their C_k differ and the limit would "
            "be wrong. Make the second with gflow.rescale(model, log_alpha)."
        )
