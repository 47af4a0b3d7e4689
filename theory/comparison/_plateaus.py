"""Claims about the plateau after a transition: what switched, loss, weights, ranks, shares."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from gflow.internal import (
    coordinate_label,
    rank_label,
)

from .._prediction import Prediction
from .._stage import Stage, by_leaf
from ._allowance import Allowance
from ._claims import CONFIRMED, REFUTED, SHARE, UNDECIDED, Allowed, Claim, judged, label_claim
from ._readings import BEYOND, Plateau, Reader


@dataclasses.dataclass(frozen=True, eq=False)
class Resting:
    """The plateau after a transition, as predicted and as read, and the one before.

    `ahead`: how far loss and weights still are from the saddle where the run is read, by the
    predicted orbit, which may pause on its way; None where no orbit is known.
    """

    prediction: Prediction
    group: list[int]
    reader: Reader
    plateau: Plateau
    before: Plateau
    doubtful_before: dict[str, np.ndarray]
    allowance: Allowance
    matched: bool
    formed_before: bool = True
    ahead: tuple[float, dict[str, np.ndarray]] | None = None

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

    def _allowed(self, bound: Any, moved: Any, floor: Any, ahead: Any) -> list[Allowed]:
        """What the prediction knows; read elsewhere than where that holds, what moves as well."""
        a = self.allowance
        moves = (BEYOND * np.asarray(moved) + ahead) * (0.0 if self.matched else 1.0)
        size = 1.5 * np.asarray(bound) + moves
        origin = a.origin if self.matched else f"{a.origin}, and what the run still moves there"
        # where no bound holds, what is met by a run at rest is met
        guess = a.guess or not a.exists
        rest = moves if guess else np.full(np.shape(size), math.inf)
        parts = (np.ravel(size), np.ravel(rest), np.broadcast_to(floor, np.size(size)))
        return [
            Allowed(float(x), origin, self._remedy, a.exists, 0.0, float(r), guess, float(f))
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

    @property
    def _step(self) -> float:
        """By what the loss falls to this plateau or from it, whichever is less."""
        losses = [self.prediction.start.loss, *(s.loss for s in self.prediction.stages)]
        k = self.group[-1] + 1
        steps = np.abs(np.diff(losses))[k - 1 : k + 1]
        step = float(np.min(steps[steps > 0], initial=math.inf))
        return step if math.isfinite(step) else float(np.ptp(self.reader.trajectory.loss))

    @property
    def _short(self) -> float:
        """The share of their size that weights may be short of a plateau still on its way.

        The loss is quadratic there: what it stands above the saddle, of a step, is the square.
        """
        above = max(self.plateau.loss - self.stage.loss, 0.0)
        return 0.0 if self.matched or self._step == 0.0 else math.sqrt(above / self._step)

    def _loss(self) -> Claim:
        run, step = self.reader.trajectory, self._step
        floor = 1e-12 * float(np.max(np.abs(run.loss[0]))) + self._rtol * abs(self.stage.loss)
        ahead = 0.0 if self.ahead is None else self.ahead[0]
        (allowed,) = self._allowed(self.allowance.loss, self.plateau.loss_moved, floor, ahead)
        return judged(
            self._key("loss"), self.stage.loss, self.plateau.loss, self.plateau.loss_bar,
            allowed, SHARE * step, "loss",
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
            if not self.reader.trajectory.leaves[name].entrywise:
                sizes = np.full_like(sizes, largest)
            sizes = np.where(sizes > 0, sizes, largest if largest > 0 else 1.0)
            floor = 200.0 * self._rtol * sizes + 1e-10 * max(largest, 1e-300)
            bound = np.broadcast_to(self.allowance.weights[name], found.shape)
            moved = self.plateau.moved[name] + self._short * np.reshape(sizes, found.shape) / BEYOND
            ahead = 0.0 if self.ahead is None else np.reshape(self.ahead[1][name], found.shape)
            allowed = self._allowed(bound, moved, np.ravel(floor), ahead)
            rows = zip(np.ndindex(found.shape), allowed, strict=True)
            slack[name] = np.reshape(
                [
                    self._uncertain(a) + 2 * b + a.floor
                    for a, b in zip(allowed, np.ravel(bars), strict=True)
                ],
                found.shape,
            )
            each = [
                judged(self._key("value"), float(expected[i]), float(found[i]),
                       float(bars[i]), a, SHARE * float(sizes[i]), coordinate_label((name, i)))
                for i, a in rows
            ]  # fmt: skip
            claims += each
        order = [CONFIRMED, UNDECIDED, REFUTED]
        return max(claims, key=lambda c: (order.index(c.verdict), _share(c))), slack

    def _uncertain(self, allowed: Allowed) -> float:
        """What finite α may do to a weight; without a bound, what the run still does."""
        return allowed.size if self.allowance.exists else min(allowed.size, allowed.rest)

    def _ambiguous(self, name: str, slack: np.ndarray) -> np.ndarray:
        """Modes that cannot be told to be on or off: smaller than twice what is uncertain."""
        matrix = self.reader.trajectory.leaves[name].spectral
        sizes = self.plateau.sizes[name]
        if matrix:
            slack = np.sqrt(np.sum(slack**2, axis=(-1, -2)))[..., None]
        else:  # of units, what is uncertain in all of their entries
            slack = _norms(slack, sizes.shape)
        off = ~self.plateau.active[name]
        expected = by_leaf(self.stage.value)[name]
        if matrix:
            expected = np.linalg.svdvals(expected)[..., : sizes.shape[-1]]
        else:
            expected = _norms(expected, sizes.shape)
        counts = np.abs(expected) > 1e-9 * np.max(np.abs(expected), initial=0.0)
        there = off & counts & (np.abs(np.abs(expected) - sizes) <= slack)
        dying = self.plateau.active[name] & (sizes <= 2.0 * slack)
        return there | dying

    def _labels(
        self, what: str, predicted: str, measured: str, wrong: int, doubt: int, formed: bool
    ) -> Claim:
        """A claim that counts: `wrong` modes are not as predicted, of which `doubt` may be.

        `formed`: whether what it counts is told from plateaus that are there at this α.
        """
        met = wrong == 0 == doubt and self._value[0].verdict == CONFIRMED
        if not formed and not met:
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
            if leaves[name].spectral:  # columns are numbered by when they came, not by size
                change, said, doubtful = (
                    np.sum(x, axis=-1, keepdims=True) for x in (change, said, doubtful)
                )
            where = (tuple(int(j) for j in i) for i in np.argwhere(change))
            seen += [(name, i, int(change[i])) for i in where]
            wrong += int(np.sum(np.abs(change - said)))
            doubt += int(np.sum(doubtful))
        predicted = " ".join(s.label for s in stages)
        measured = predicted if wrong == 0 else _switched(seen, leaves)
        formed = self.allowance.exists and self.formed_before
        return self._labels("switches", predicted, measured, wrong, doubt, formed)

    def _rank(self) -> Claim:
        counted = {n: np.sum(self.plateau.active[n], axis=-1) for n in self.doubtful}
        predicted = by_leaf(self.stage.rank)
        if set(predicted) != set(counted):
            predicted = {n: predicted["weight"] for n in counted}
        wrong = sum(int(np.sum(np.abs(counted[n] - predicted[n]))) for n in counted)
        doubt = sum(int(np.sum(x)) for x in self.doubtful.values())
        formed = self.allowance.exists
        labels = rank_label(predicted), rank_label(counted)
        return self._labels("rank", *labels, wrong, doubt, formed)

    def _shares(self) -> list[Claim]:
        shares = self.stage.shares
        if not shares:
            return []
        sizes, bars = {}, {}
        for name, index in shares:
            matrix = self.reader.trajectory.leaves[name].spectral
            at = index[:-1] if matrix else index
            sizes[name, index] = float(np.linalg.norm(self.plateau.values[name][at]))
            bars[name, index] = float(np.linalg.norm(self.plateau.bars[name][at]))
        total = sum(sizes.values())
        moved = sum(float(np.max(self.plateau.moved[n])) for n in {n for n, _ in shares})
        claims = []
        for c, share in shares.items():
            bound = float(np.max(self.allowance.weights[c[0]])) / total
            floor = 1e3 * self._rtol
            ahead = 0.0 if self.ahead is None else float(np.max(self.ahead[1][c[0]])) / total
            (allowed,) = self._allowed(bound, moved / total, floor, ahead)
            key = self._key(f"share.{coordinate_label(c)}")
            claims.append(
                judged(key, share, sizes[c] / total, sum(bars.values()) / total, allowed, 0.02, "")
            )
        return claims


def _norms(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Of the entries that belong to each mode; where a mode is an entry, its size."""
    return np.linalg.norm(np.reshape(values, (*shape, -1)), axis=-1)


def _share(claim: Claim) -> float:
    bound = claim.allowance + 2.0 * claim.bar
    return abs(claim.miss) / bound if bound > 0 else abs(claim.miss)


def _switched(seen: list[tuple[str, tuple[int, ...], int]], leaves: dict[str, Any]) -> str:
    words = []
    for name, index, change in seen:
        sign = "+" if change > 0 else "−"
        if leaves[name].spectral:
            head = f" of head {index[0]}" if len(index) > 1 else ""
            words.append(f"{sign}{abs(change)} in {name}{head}")
        else:
            words.append(sign + coordinate_label((name, index)))
    return " ".join(words) or "no switch"
