"""The claims of a prediction about one run, each judged: times, plateaus, start, completeness."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from gflow.crossings import Crossing
from gflow.fingerprint import start_factors
from gflow.observables import is_matrix, log_modes
from gflow.parameters import Constant
from gflow.trajectory import Trajectory

from .allowance import Allowance, by_leaf, could_be, rate_of
from .claims import CONFIRMED, REFUTED, SHARP, UNDECIDED, Allowed, Claim, judged, label_claim
from .prediction import Prediction, Stage, coordinate_label
from .readings import Plateau, Reader

#: A loss or a weight is confirmed when it is known to this share of the step beside it.
_SHARE = 0.02
#: What a plateau may still move, over what it moves half-way to its edges.
_BEYOND = 3.0
#: What the entries of a matrix may be off by, over the norm of the bounds on them.
_TURNS = 3.0
#: A plateau of the run longer than this, in e-folds, is not the inside of one orbit.
_INSIDE = 12.0
#: C is not known where it is not predicted; two runs determine both.
_SECOND = "a second run at another α (second=) would decide"


@dataclasses.dataclass(frozen=True, eq=False)
class Timed:
    """A run with where it crosses the levels of a prediction and what its α is allowed."""

    run: Trajectory
    crossings: list[Crossing | None]
    allowances: list[Allowance]

    def allowed(self, prediction: Prediction, k: int) -> Allowed:
        a, floor = self.allowances[k], prediction.accuracy / rate_of(prediction, k)
        return Allowed(a.time, a.origin, a.remedy, a.trusted, a.signed, a.rest, a.guess, floor)


# --- times ---------------------------------------------------------------------------------


def time_claim(prediction: Prediction, k: int, timed: Timed) -> Claim | None:
    """t_k against TΛ + C; None where the run does not reach it."""
    stage, scale, crossing = prediction.stages[k], timed.run.scale, timed.crossings[k]
    allowed, sharp = timed.allowed(prediction, k), SHARP / max(1.0, rate_of(prediction, k))
    known = math.isfinite(stage.offset)
    predicted = stage.tau * scale + (stage.offset if known else 0.0)
    if not known:
        bound = could_be(prediction, k, _largest_factor(timed.run))
        origin = "what C could be, which is not predicted"
        allowed, sharp = Allowed(bound, origin, _SECOND), -1.0
    key = f"stage{k + 1}.time"
    if crossing is None:
        reached = predicted + 2.0 * allowed.size < float(timed.run.t[-1])
        if not reached and predicted > float(timed.run.t[-1]):
            return None
        reason = f"{key}: t = {predicted:.6g} predicted, and the level is not crossed"
        verdict = REFUTED if reached and allowed.trusted else UNDECIDED
        nan = math.nan
        return Claim(
            key, predicted, nan, nan, allowed.size, allowed.origin, "flow time", verdict, reason
        )
    return judged(key, predicted, crossing.t, crossing.error, allowed, sharp, "flow time")


def _largest_factor(run: Trajectory) -> float:
    factors = run.fingerprint.factors or {}
    logs = [abs(x) for n, xs in factors.items() if "log|" in n for x in xs if math.isfinite(x)]
    return max(logs, default=3.0)


def limit_claims(prediction: Prediction, k: int, first: Timed, second: Timed) -> list[Claim]:
    r"""T and C from two runs: T̂ = (t₂ − t₁)/(Λ₂ − Λ₁), Ĉ = t₁ − T̂Λ₁, with bars from both."""
    if first.run.scale > second.run.scale:
        first, second = second, first
    one, two = first.crossings[k], second.crossings[k]
    if one is None or two is None:
        return []
    stage, rate = prediction.stages[k], rate_of(prediction, k)
    here, there = first.run.scale, second.run.scale
    gap, a, b = there - here, first.allowances[k], second.allowances[k]
    sum_of = {"T": (1.0 / gap, 1.0 / gap), "C": (there / gap, here / gap)}
    measured = {"T": (two.t - one.t) / gap}
    measured["C"] = one.t - measured["T"] * here
    signed = {"T": (b.signed - a.signed) / gap, "C": (a.signed * there - b.signed * here) / gap}
    sharp = SHARP / max(1.0, rate)
    claims = []
    for what, predicted, limit in (
        ("T", stage.tau, min(sharp / gap * 2.0, 0.01 * stage.tau)),
        ("C", stage.offset, sharp),
    ):
        if not math.isfinite(predicted):
            continue
        u, v = sum_of[what]
        allowed = Allowed(
            u * a.time + v * b.time,
            f"{a.origin}, two runs",
            a.remedy,
            a.trusted and b.trusted,
            signed[what],
            u * a.rest + v * b.rest,
            a.guess and b.guess,
            (u + v) * prediction.accuracy / rate,
        )
        unit = "log(1/α)" if what == "T" else "flow time"
        bar = u * one.error + v * two.error
        key = f"stage{k + 1}.{what}"
        claims.append(judged(key, predicted, measured[what], bar, allowed, limit, unit))
    misses = [t.crossings[k].t - stage.tau * t.run.scale - stage.offset for t in (first, second)]  # type: ignore[union-attr]
    return [_not_falling(claim, misses, one.error + two.error, here, a) for claim in claims]


def _not_falling(
    claim: Claim, misses: list[float], bar: float, scale: float, allowance: Allowance
) -> Claim:
    """Refute a claim with no bound of its own where the miss does not fall from run to run.

    A remainder α^p falls by that factor; one that keeps its size would need p < 10⁻³.
    """
    before, after = (abs(m) for m in misses)
    if claim.verdict != UNDECIDED or allowance.trusted or not math.isfinite(before):
        return claim
    if (
        scale < 30.0
        or not before > 10.0 * bar + 1e-9
        or not after > math.exp(-1e-3 * scale) * before
    ):
        return claim
    words = f"the miss is {misses[0]:.6g} and then {misses[1]:.6g}: no power of α falls so little"
    return dataclasses.replace(claim, verdict=REFUTED, reason=f"{claim.reason}; {words}")


def merged_claim(prediction: Prediction, group: list[int], timed: Timed, found) -> Claim | None:
    """One visible jump where the prediction says that transitions overtake each other.

    Its time needs an orbit of its own and is not predicted; far outside those of its members
    it is refuted.
    """
    scale = timed.run.scale
    stages = [prediction.stages[i] for i in group]
    times = [s.tau * scale + (s.offset if math.isfinite(s.offset) else 0.0) for s in stages]
    slack = max(_INSIDE / rate_of(prediction, i) for i in group) + 2.0 * (max(times) - min(times))
    key, end = f"stage{group[0] + 1}–{group[-1] + 1}.time", float(timed.run.t[-1])
    origin = "transitions that merge at this α"
    middle = 0.5 * (min(times) + max(times))
    if found is None:
        if max(times) + slack >= end:
            return None
        measured, bar, verdict = math.nan, math.nan, REFUTED
        words = "the loss does not fall from the plateau before to the one after"
    else:
        measured, bar = found.t, found.error
        outside = not min(times) - slack <= measured <= max(times) + slack
        verdict = REFUTED if outside else UNDECIDED
        words = "far outside its members' times" if outside else "a smaller α separates them"
    reason = (
        f"{key}: members at t = {', '.join(f'{t:.6g}' for t in times)}, one jump measured at "
        f"{measured:.6g}: {words}"
    )
    return Claim(key, middle, measured, bar, slack, origin, "flow time", verdict, reason)


# --- plateaus ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Resting:
    """The plateau after a transition, as predicted and as read, and the one before."""

    prediction: Prediction
    group: list[int]
    reader: Reader
    plateau: Plateau
    before: Plateau
    doubtful_before: dict[str, np.ndarray]
    allowance: Allowance
    matched: bool

    @property
    def stage(self) -> Stage:
        return self.prediction.stages[self.group[-1]]

    def claims(self) -> list[Claim]:
        return [self._switches(), self._loss(), self._value[0], self._rank(), *self._shares()]

    @functools.cached_property
    def doubtful(self) -> dict[str, np.ndarray]:
        """Modes by leaf that cannot be told to be on or off here."""
        return {name: self._ambiguous(name, slack) for name, slack in self._value[1].items()}

    def _key(self, what: str) -> str:
        ends = {self.group[0] + 1, self.group[-1] + 1}
        return f"stage{'–'.join(str(i) for i in sorted(ends))}.{what}"

    def _allowed(self, bound: Any, moved: Any, floor: Any) -> list[Allowed]:
        """What the prediction knows; read elsewhere than where that holds, what moves as well."""
        a = self.allowance
        moves = _BEYOND * np.asarray(moved) * (0.0 if self.matched else 1.0)
        size = 1.5 * np.asarray(bound) + moves
        origin = a.origin if self.matched else f"{a.origin}, and what the run still moves there"
        rest = moves if a.guess else np.full(np.shape(size), math.inf)
        parts = (np.ravel(size), np.ravel(rest), np.broadcast_to(floor, np.size(size)))
        return [
            Allowed(float(x), origin, self._remedy, a.exists, 0.0, float(r), a.guess, float(f))
            for x, r, f in zip(*parts, strict=True)
        ]

    @property
    def _remedy(self) -> str:
        still = not self.matched and self.group[-1] == len(self.prediction.stages) - 1
        return self.allowance.remedy + (", or a longer run" if still else "")

    @property
    def _rtol(self) -> float:
        resolver = self.reader.trajectory.resolver
        return 1e-8 if resolver is None else float(resolver.rtol)

    def _loss(self) -> Claim:
        losses = [self.prediction.start.loss, *(s.loss for s in self.prediction.stages)]
        k = self.group[-1] + 1
        steps = np.abs(np.diff(losses))[k - 1 : k + 1]
        run = self.reader.trajectory
        step = float(np.min(steps[steps > 0], initial=math.inf))
        if not math.isfinite(step):
            step = float(np.ptp(run.loss))
        floor = 1e-12 * float(np.max(np.abs(run.loss[0]))) + self._rtol * abs(self.stage.loss)
        (allowed,) = self._allowed(self.allowance.loss, self.plateau.loss_moved, floor)
        return judged(
            self._key("loss"), self.stage.loss, self.plateau.loss, self.plateau.loss_bar,
            allowed, _SHARE * step, "loss",
        )  # fmt: skip

    @functools.cached_property
    def _value(self) -> tuple[Claim, dict[str, np.ndarray]]:
        """The claim about the weight that misses most; and how far each is uncertain."""
        saddles = [by_leaf(x.value) for x in (self.prediction.start, *self.prediction.stages)]
        claims, slack = [], {}
        for name, expected in by_leaf(self.stage.value).items():
            found, bars = self.plateau.values[name], self.plateau.bars[name]
            sizes = np.max([np.abs(s[name]) for s in saddles], axis=0)
            largest = float(np.max(sizes, initial=0.0))
            if is_matrix(self.reader.trajectory.leaves[name]):
                sizes = np.full_like(sizes, largest)
            sizes = np.where(sizes > 0, sizes, largest if largest > 0 else 1.0)
            floor = 200.0 * self._rtol * sizes + 1e-10 * max(largest, 1e-300)
            bound = np.broadcast_to(self.allowance.weights[name], found.shape)
            if is_matrix(self.reader.trajectory.leaves[name]):
                # which entries a turn of the columns moves is known worse than by how much
                norm = np.linalg.norm(bound, axis=(-2, -1), keepdims=True)
                bound = np.broadcast_to(_TURNS * norm, found.shape)
            allowed = self._allowed(bound, self.plateau.moved[name], np.ravel(floor))
            rows = zip(np.ndindex(found.shape), allowed, strict=True)
            slack[name] = np.reshape(
                [a.size + 2 * b + a.floor for a, b in zip(allowed, np.ravel(bars), strict=True)],
                found.shape,
            )
            each = [
                judged(self._key("value"), float(expected[i]), float(found[i]),
                       float(bars[i]), a, _SHARE * float(sizes[i]), coordinate_label((name, i)))
                for i, a in rows
            ]  # fmt: skip
            claims += each
        order = [CONFIRMED, UNDECIDED, REFUTED]
        return max(claims, key=lambda c: (order.index(c.verdict), _share(c))), slack

    def _ambiguous(self, name: str, slack: np.ndarray) -> np.ndarray:
        """Modes that cannot be told to be on or off: smaller than twice what is uncertain."""
        matrix = is_matrix(self.reader.trajectory.leaves[name])
        sizes = self.plateau.sizes[name]
        if matrix:
            slack = np.sqrt(np.sum(slack**2, axis=(-1, -2)))[..., None]
        off = ~self.plateau.active[name]
        expected = by_leaf(self.stage.value)[name]
        if matrix:
            expected = np.linalg.svd(expected, compute_uv=False)[..., : sizes.shape[-1]]
        counts = np.abs(expected) > 1e-9 * np.max(np.abs(expected), initial=0.0)
        there = off & counts & (np.abs(np.abs(expected) - sizes) <= slack)
        dying = self.plateau.active[name] & (sizes <= 2.0 * slack)
        return there | dying

    def _labels(self, what: str, predicted: str, measured: str, wrong: int, doubt: int) -> Claim:
        """A claim that counts: `wrong` modes are not as predicted, of which `doubt` may be."""
        if not self.allowance.exists:
            verdict, words = UNDECIDED, f"the plateau is not formed at this α; {self._remedy}"
        elif wrong > doubt:
            verdict, words = REFUTED, "not what happened"
        elif doubt:
            verdict, words = UNDECIDED, "a weight on its way is not told from one at rest; "
            words += self._remedy
        else:
            verdict, words = CONFIRMED, "the same"
        return label_claim(self._key(what), predicted, measured, verdict, words)

    def _switches(self) -> Claim:
        stages = [self.prediction.stages[i] for i in self.group]
        leaves = self.reader.trajectory.leaves
        wrong, doubt, seen = 0, 0, []
        for name, doubtful in self.doubtful.items():
            change = self.plateau.active[name].astype(int) - self.before.active[name].astype(int)
            said = np.zeros_like(change)
            for sign, lists in ((1, "activated"), (-1, "deactivated")):
                for leaf, index in (c for s in stages for c in getattr(s, lists)):
                    if leaf == name:
                        said[index] += sign
            doubtful = (doubtful | self.doubtful_before.get(name, False)).astype(int)
            if is_matrix(leaves[name]):  # columns are numbered by when they came, not by size
                change, said, doubtful = (
                    np.sum(x, axis=-1, keepdims=True) for x in (change, said, doubtful)
                )
            where = (tuple(int(j) for j in i) for i in np.argwhere(change))
            seen += [(name, i, int(change[i])) for i in where]
            wrong += int(np.sum(np.abs(change - said)))
            doubt += int(np.sum(doubtful))
        predicted = " ".join(s.label for s in stages)
        measured = predicted if wrong == 0 else _switched(seen, leaves)
        return self._labels("switches", predicted, measured, wrong, doubt)

    def _rank(self) -> Claim:
        counted = {n: np.sum(self.plateau.active[n], axis=-1) for n in self.doubtful}
        predicted = by_leaf(self.stage.rank)
        if set(predicted) != set(counted):
            predicted = {n: predicted["weight"] for n in counted}
        wrong = sum(int(np.sum(np.abs(counted[n] - predicted[n]))) for n in counted)
        doubt = sum(int(np.sum(x)) for x in self.doubtful.values())
        return self._labels("rank", rank_label(predicted), rank_label(counted), wrong, doubt)

    def _shares(self) -> list[Claim]:
        shares = self.stage.shares
        if not shares:
            return []
        sizes, bars = {}, {}
        for name, index in shares:
            matrix = is_matrix(self.reader.trajectory.leaves[name])
            at = index[:-1] if matrix else index
            sizes[name, index] = float(np.linalg.norm(self.plateau.values[name][at]))
            bars[name, index] = float(np.linalg.norm(self.plateau.bars[name][at]))
        total = sum(sizes.values())
        moved = sum(float(np.max(self.plateau.moved[n])) for n in {n for n, _ in shares})
        claims = []
        for c, share in shares.items():
            bound = float(np.max(self.allowance.weights[c[0]])) / total
            floor = 1e3 * self._rtol
            (allowed,) = self._allowed(bound, moved / total, floor)
            key = self._key(f"share.{coordinate_label(c)}")
            claims.append(
                judged(key, share, sizes[c] / total, sum(bars.values()) / total, allowed, 0.02, "")
            )
        return claims


def _share(claim: Claim) -> float:
    bound = claim.allowance + 2.0 * claim.bar
    return abs(claim.miss) / bound if bound > 0 else abs(claim.miss)


def _switched(seen: list[tuple[str, tuple[int, ...], int]], leaves: dict[str, Any]) -> str:
    words = []
    for name, index, change in seen:
        sign = "+" if change > 0 else "−"
        if is_matrix(leaves[name]):
            head = f" of head {index[0]}" if len(index) > 1 else ""
            words.append(f"{sign}{abs(change)} in {name}{head}")
        else:
            words.append(sign + coordinate_label((name, index)))
    return " ".join(words) or "no switch"


def rank_label(rank: Any) -> str:
    """Ranks by leaf, heads separated by commas: `kq 1,0 vo 1,1`."""
    if not isinstance(rank, dict):
        return str(int(rank))
    parts = [f"{n} {','.join(str(int(r)) for r in np.ravel(v))}" for n, v in rank.items()]
    return " ".join(parts)


# --- start and completeness ----------------------------------------------------------------


def start_claims(prediction: Prediction, reader: Reader, rest: Plateau) -> list[Claim]:
    """The same factors, data and decay, and the loss the flow starts from."""
    run, mine = reader.trajectory, prediction.fingerprint
    claims = [] if mine is None else _same_problem(run, mine)
    zero = not any(np.any(x) for x in by_leaf(prediction.start.value).values())
    dormant = run.log_alpha < 0 and all(
        np.max(log_modes({k: v[:1] for k, v in leaf.items()}), initial=-math.inf)
        < 0.5 * run.log_alpha
        for leaf in run.leaves.values()
    )
    loss = prediction.start.loss
    if zero and dormant:
        first = {n: {k: v[0] for k, v in leaf.items()} for n, leaf in run.leaves.items()}
        left = sum(float(np.sum(np.abs(x["force"] * x["value"]))) for x in first.values())
        allowed = Allowed(2.0 * left, "the weights at the start", "a smaller α")
        measured, bar = float(run.loss[0]), 0.0
    else:
        size = _BEYOND * rest.loss_moved
        allowed = Allowed(size, "what the run moves on its first plateau", "a smaller α")
        measured, bar = rest.loss, rest.loss_bar
    rounding = 1e-9 * max(abs(loss), abs(measured))
    allowed = dataclasses.replace(allowed, floor=rounding)
    step = max(abs(loss - s.loss) for s in prediction.stages) if prediction.stages else abs(loss)
    sharp = max(_SHARE * step, 2.0 * rounding)
    return [*claims, judged("start.loss", loss, measured, bar, allowed, sharp, "loss")]


def _same_problem(run: Trajectory, mine: Any) -> list[Claim]:
    theirs, claims = run.fingerprint, []
    if mine.elapsed != theirs.elapsed and mine.factors is not None and run.resolver is not None:
        # predicted from a later point of a run: what this run is there
        model = run.model(t=mine.elapsed) if run.t[0] <= mine.elapsed <= run.t[-1] else None
        factors = None if model is None else start_factors(model, run.log_alpha)
        theirs = dataclasses.replace(theirs, factors=factors, tolerance=1e-5)
    for part in ("factors", "data", "decay"):
        if getattr(mine, part) is None or getattr(theirs, part) is None:
            continue
        found = mine.difference(theirs, part)
        verdict = CONFIRMED if found is None else REFUTED
        measured = "the same" if found is None else "other"
        words = "equal" if found is None else f"{found} (prediction against run)"
        claims.append(label_claim(f"start.{part}", "the same", measured, verdict, words))
    return claims


def path_claims(
    prediction: Prediction, reader: Reader, rows: list[float], reached: bool
) -> list[Claim]:
    """Whether the run has transitions that are not predicted, and whether it has come to rest.

    `rows`: flow times of the transitions judged; `reached`: the run has them all.
    """
    run, claims = reader.trajectory, []
    edges = [float(run.t[v]) for v in reader.valleys]
    extra = []
    for i, peak in enumerate(reader.peaks):
        falls = run.loss[reader.valleys[i]] - run.loss[reader.valleys[i + 1]]
        if falls <= 1e-13 * abs(run.loss[0]):
            continue
        if not any(edges[i] < t <= edges[i + 1] for t in rows):
            extra.append(peak)
    last = max(rows, default=-math.inf)
    between, after = [t for t in extra if t < last], [t for t in extra if t > last]
    n = len(rows)
    if rows:
        claims.append(_between(prediction, run, rows, between))
    complete = prediction.ended.startswith("complete")
    said = f"{n} transitions and no more" if complete else f"{n} transitions, {prediction.ended}"
    measured, verdict, words = said, CONFIRMED, "the run has come to rest"
    if after and reached:
        rate = rate_of(prediction, len(prediction.stages) - 1) if prediction.stages else 1.0
        long = min(after) - last if rows else math.inf
        verdict = REFUTED if complete and rate * long > _INSIDE else UNDECIDED
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


def _between(prediction, run, rows: list[float], extra: list[float]) -> Claim:
    key, said = "path.transitions", f"{len(rows)} up to t = {max(rows):.6g}"
    if not extra:
        return label_claim(key, said, said, CONFIRMED, "no others")
    slowest = min(rate_of(prediction, k) for k in range(len(prediction.stages)))
    far = [t for t in extra if slowest * min(abs(t - r) for r in rows) > _INSIDE]
    listed = ", ".join(f"{t / run.scale:.6g}" for t in extra)
    measured = f"{len(rows) + len(extra)}, further ones at τ = {listed}"
    if far:
        return label_claim(key, said, measured, REFUTED, "no prediction explains them")
    words = "too near a predicted one to be told from a part of it; a smaller α would decide"
    return label_claim(key, said, measured, UNDECIDED, words)


def _still_growing(run: Trajectory) -> str | None:
    """Whether a dormant weight becomes O(1) within ten times the run at the rate it has."""
    if not run.successful:
        return f"the run failed ({run.status})"
    end = float(run.t[-1])
    decay = {} if run.resolver is None else _rates(run.resolver.flow)
    for name, leaf in run.leaves.items():
        last = {k: v[-1] for k, v in leaf.items()}
        sizes = log_modes(last)
        if is_matrix(leaf):
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
