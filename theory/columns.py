r"""The limit algorithm for factored matrices W = A Bᵀ: when and where the rank jumps.

Write column j of Z = [A; B], in the gauge in which the columns are orthogonal, as α^{e_j} e^{b_j}
at a reference time. At a saddle of rank k the force G vanishes on the column and row space of
W; on the complement it has singular values h₁ ≥ h₂ ≥ …, and j dormant columns span a volume
that grows at h₁ + … + h_j. So the j-th grows at h_j − λ, the first one that becomes O(1) jumps,

    T ← T + e₁/h₁,   C ← C + (x_m − b₁)/h₁,

with x_m + h₁s its log-size on the orbit that connects the two saddles, s = 0 where the loss is
midway, and the others gain what their volumes gain. Exponents are remembered, directions are
not: on every plateau the columns turn to the singular vectors of G.

Checked numerically, not proven; the diagonal case is 2306.07042, directions without times are
those of 2012.09839.
"""

import dataclasses
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gflow.factored import Factored
from gflow.flow import Flow
from gflow.gauge import orthogonal

from .column_orbits import Block, ColumnOrbit, Fast, assembled, follow, saddle
from .orbits import Degenerate, Unbounded
from .prediction import Coordinate, Prediction, Stage, Start, coordinate_label

SOURCE = "limit algorithm for A Bᵀ (diagonal case: Boix-Adsera et al. 2023, 2306.07042)"
VALIDITY = (
    "α → 0 with the O(1) factors fixed, rank r ≤ min(m, n); each winner unique (see margin), each "
    "saddle a strict minimum among matrices of its rank. Found numerically, not proven."
)

#: A force this much below the largest initial one counts as zero.
FORCE_FLOOR = 1e-10
#: Candidates whose times agree to this relative accuracy are tied.
TIE = 1e-9
#: Log-size at which a winner enters its orbit: its weight is e^{-30}/2.
_ENTRY = -15.0
#: A singular value this far below the largest says that a column has fallen back to zero.
_FALLEN = 1e-7
#: A dormant column that loses this much (a logarithm) on an orbit is left with rounding.
_LOST = -25.0


@dataclasses.dataclass(eq=False)
class Columns:
    """One head of a leaf: its saddle and where its dormant columns stand.

    `exponent`, `size`: e and b of the dormant columns, largest first; `branch`: −1 where the
    last one sits on the shrinking [u; −v]. `balance`: the exponent of AᵀA − BᵀB, so that of a
    column with exponent e the part on the other branch has `balance` − e. `columns`: directions
    of those of A and B, as long as no force has told them apart; their sizes then say nothing
    of volumes.
    """

    name: str
    head: tuple[int, ...]
    split: int
    decay: float
    weight: np.ndarray
    rank: int
    exponent: np.ndarray
    size: np.ndarray
    columns: np.ndarray | None
    balance: float
    branch: int = 1
    left: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    right: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    strength: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def full(self) -> bool:
        """Square and of full width: only then is there a shrinking branch."""
        m, n = self.weight.shape
        return m == n == self.rank + len(self.exponent)

    def face(self, force: np.ndarray, floor: float) -> None:
        """Singular vectors and values of the force on the complement of the saddle."""
        u, _, vt = np.linalg.svd(self.weight)
        uc, vc = u[:, self.rank :], vt[self.rank :].T
        p, h, qt = np.linalg.svd(uc.T @ force @ vc)
        count = len(self.exponent)
        self.left, self.right = (uc @ p)[:, :count], (vc @ qt.T)[:, :count]
        self.strength = np.where(h > floor, h, 0.0)[:count]

    @property
    def directions(self) -> np.ndarray:
        """[u_j; v_j]/√2 of the dormant columns, on their branches."""
        right = self.right.copy()
        if self.branch < 0:
            right[:, -1] *= -1
        return np.concatenate([self.left, right]) / math.sqrt(2.0)

    @property
    def rates(self) -> np.ndarray:
        growth = self.strength.copy()
        if self.branch < 0:
            growth[-1] *= -1
        return growth - self.decay

    def candidate(self) -> tuple[float, float, float]:
        """Waiting time, growth rate and log-size of the column due first."""
        if not len(self.exponent) or not self.strength[0] - self.decay > 0:
            return math.inf, 0.0, math.nan
        rate = float(self.strength[0] - self.decay)
        if self.branch < 0 and len(self.exponent) == 1:
            # its growing part is what the conserved balance leaves of it
            return (self.balance - float(self.exponent[0])) / rate, rate, math.nan
        return float(self.exponent[0]) / rate, rate, float(self.size[0])

    def wait(self, tau: float, offset: float) -> None:
        """Let a plateau of length tau·Λ + offset pass."""
        self.exponent = self.exponent - self.rates * tau
        self.size = self.size + self.rates * offset
        self.balance += 2.0 * self.decay * tau
        other = self.balance - self.exponent[-1:]
        if self.branch < 0 and other[0] < self.exponent[-1]:
            self.branch, self.exponent[-1:], self.size[-1] = 1, other, math.nan

    def block(self, entry: float | None) -> Block:
        """Columns at the start of an orbit: active, the winner at log-size `entry`, dormant."""
        u, s, vt = np.linalg.svd(self.weight)
        k = self.rank
        active = np.concatenate([u[:, :k], vt[:k].T]) / math.sqrt(2.0)
        log_active = 0.5 * np.log(2.0 * s[:k])
        if self.columns is None:
            dormant, log_dormant = self.directions, np.zeros(len(self.exponent))
        else:
            # of like size, so that what counts is how much larger one is than another
            dormant, log_dormant = self.columns, self.size - self.size[0]
        log_size = np.concatenate([log_active, log_dormant])
        if entry is not None:
            log_size[k] = entry
        return Block(
            jnp.asarray(np.concatenate([active, dormant], axis=1)),
            jnp.asarray(log_size),
            jnp.asarray(np.arange(len(log_size)) < k + (entry is not None)),
            jnp.asarray(self.columns is None),
            jnp.asarray(self.decay),
            self.split,
        )

    def land(self, weight, force, end: Block, s: tuple[float, float], winner: bool, floor) -> None:
        """At the next saddle, with what the dormant columns gained on the orbit."""
        before = self.rates[int(winner) :]
        self.weight, self.rank = weight, self.rank + int(winner)
        if winner:
            self.exponent, self.size = self.exponent[1:], self.size[1:]
        dormant, logs = np.asarray(end.direction)[:, self.rank :], np.asarray(end.log_size)
        logs = logs[self.rank :]
        self.face(force, floor)
        if self.columns is not None:
            self.columns, self.size = dormant, self.size[0] + logs + before * s[0]
            if self.strength[0] > 0:
                self.align()
            self.size = self.size - self.rates * s[1]
            return
        if self.full and len(self.exponent):
            u, v = (
                self.left[:, -1] @ dormant[: self.split, -1],
                self.right[:, -1] @ dormant[self.split :, -1],
            )
            self.branch = 1 if u * v > 0 else -1
        volumes = np.linalg.qr(self.directions.T @ dormant).R
        gain = logs + _log_diagonal(volumes) + before * s[0] - self.rates * s[1]
        if np.any(gain < _LOST):
            raise Degenerate(
                f"the dormant columns of {coordinate_label((self.name, self.head))} run parallel "
                "to what has been learned elsewhere (another head that feels the same force), "
                "and what sets them apart is lost in rounding"
            )
        self.size = self.size + gain

    def align(self) -> None:
        """Columns that a force tells apart for the first time: sizes from volumes."""
        assert self.columns is not None
        projected, count = self.directions.T @ self.columns, len(self.exponent)
        volumes = [0.0]
        for j in range(1, count + 1):
            logs = np.asarray(_orthogonal(projected[:j], self.size)[1])
            volumes.append(float(np.sum(np.sort(logs)[::-1][:j])))
        self.size, self.columns = np.diff(volumes), None

    @property
    def coordinate(self) -> Coordinate:
        return self.name, (*self.head, self.rank)


_orthogonal = jax.jit(orthogonal)


def _log_diagonal(r: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.abs(np.diagonal(r)))


def columns_of(name: str, leaf: Factored, log_alpha: float, decay: float) -> list[Columns]:
    """The heads of a leaf at its start, with O(1) columns.

    **Raises:** ValueError for a leaf that is not at its initial scale, or with r > min(m, n).
    """
    m, n, r = leaf.left.shape[-2], leaf.right.shape[-2], leaf.rank
    if r > min(m, n):
        raise ValueError(
            f"Leaf {name!r} has {r} columns for a {m}×{n} matrix; the limit algorithm covers "
            f"r ≤ {min(m, n)}."
        )
    exponent = np.asarray(leaf.exponent) * (float(leaf.log_alpha) / log_alpha)
    if leaf.elapsed != 0.0 or np.any(np.ptp(exponent, axis=-1) > 0) or np.any(exponent <= 0):
        raise ValueError(
            f"Leaf {name!r} comes from a run: its columns have left the initial scale. The limit "
            "algorithm starts from gflow.rescale(model, log_alpha) of the initial model."
        )
    scale = np.exp(np.asarray(leaf.log_scale) - exponent * log_alpha)[..., None, :]
    left, right = (np.asarray(x) * scale for x in (leaf.left, leaf.right))
    out = []
    for head in np.ndindex(left.shape[:-2]):
        columns = np.concatenate([left[head], right[head]])
        directions, sizes = map(np.asarray, _orthogonal(columns, np.zeros(r)))
        zero = np.zeros((m, n))
        start = exponent[head], sizes, directions, 2.0 * float(exponent[head][0])
        out.append(Columns(name, head, m, decay, zero, 0, *start))
    return out


class ColumnPath:
    """The state of the limit algorithm for factored leaves."""

    def __init__(self, flow: Flow, leaves: dict[str, Factored], decay, log_alpha, rtol):
        self.flow, self.rtol = flow, rtol
        self.columns = [
            c for n in flow.names for c in columns_of(n, leaves[n], log_alpha, decay[n])
        ]
        self.layout = tuple((c.name, c.head) for c in self.columns)
        self.tau, self.offset = 0.0, 0.0
        self.loss, forces = self._evaluate()
        self.force_scale = max(float(np.linalg.norm(g, 2)) for g in forces)
        if not self.force_scale > 0:
            raise ValueError(
                "No weight feels a force at the start, so nothing ever escapes from it. In an "
                "attention model make sure that value–output weights see a gradient at zero."
            )
        self.floor = FORCE_FLOOR * self.force_scale
        for c, g in zip(self.columns, forces, strict=True):
            c.face(g, self.floor)
            if c.strength[0] > 0:
                c.align()

    def follow(self, max_stages: int) -> Prediction:
        start = Start(0.0, self._values(), self.loss, self._ranks())
        stages: list[Stage] = []
        curves = ColumnCurves(start, [], [self._snapshot()])
        ended = f"stopped at max_stages = {max_stages}"
        while len(stages) < max_stages:
            try:
                step = self._next_stage(len(stages) + 1)
            except Degenerate as error:
                ended = str(error)
                warnings.warn(f"The saddle path is predicted up to here: {error}", stacklevel=4)
                break
            if step is None:
                ended = "complete: no column feels a force that makes it grow"
                break
            stages.append(step[0])
            curves.orbits.append(step[1])
            curves.plateaus.append(self._snapshot())
        return Prediction(start, stages, SOURCE, VALIDITY, ended, curves)

    def _evaluate(self) -> tuple[float, list[np.ndarray]]:
        weights = self._values()
        loss, force = self.flow.forces({n: jnp.asarray(w) for n, w in weights.items()})
        return float(loss), [np.asarray(force[c.name])[c.head] for c in self.columns]

    def _values(self) -> dict[str, np.ndarray]:
        parts = [jnp.asarray(c.weight) for c in self.columns]
        return {n: np.asarray(w) for n, w in self._by_leaf(parts).items()}

    def _ranks(self) -> dict[str, np.ndarray]:
        parts = [jnp.asarray(c.rank) for c in self.columns]
        return {n: np.asarray(k) for n, k in self._by_leaf(parts).items()}

    def _by_leaf(self, parts) -> dict[str, Any]:
        return assembled(parts, self.layout, self.flow.names)

    def _snapshot(self) -> list[Columns]:
        return [dataclasses.replace(c) for c in self.columns]

    def _next_stage(self, number: int) -> tuple[Stage, ColumnOrbit] | None:
        due = [c.candidate() for c in self.columns]
        waits = np.array([wait for wait, _, _ in due])
        best = float(np.min(waits, initial=math.inf))
        if not math.isfinite(best):
            return None
        tied = np.flatnonzero(waits <= best * (1 + TIE))
        self._check_heads([self.columns[i] for i in tied], [due[i][1] for i in tied])
        winners = [self.columns[i] for i in tied]
        sizes = np.array([due[i][2] for i in tied])
        rate, size = due[tied[0]][1], float(np.max(sizes))
        entries = {
            id(c): _ENTRY + (own - size if len(winners) > 1 else 0.0)
            for c, own in zip(winners, sizes, strict=True)
        }
        share = np.exp(2.0 * (sizes - size)) / np.sum(np.exp(2.0 * (sizes - size)))
        activated = [c.coordinate for c in winners]
        margin = self._margin(winners, waits, tied, best)
        for c in winners:
            if c.branch < 0 and len(c.exponent) == 1:
                c.branch, c.size[0] = 1, math.nan
        for c in self.columns:
            c.wait(best, 0.0)
        blocks = tuple(c.block(entries.get(id(c))) for c in self.columns)
        if len(winners) > 1 and any(c.rank for c in winners):
            raise Degenerate(
                f"At stage {number} heads of {winners[0].name!r} that already share a mode are "
                "about to share another. Their columns then mix across heads, which is not followed"
            )
        twins = tuple(int(i) for i in tied) if len(winners) > 1 else ()
        fast = Fast(self.flow, blocks, self.layout, twins)
        try:
            orbit = follow(fast, self.force_scale, 0.1 * self.rtol)
        except (Degenerate, Unbounded) as error:
            raise type(error)(f"At stage {number}, {error}.") from None
        ranks = [c.rank + (id(c) in entries) for c in self.columns]
        weights = saddle(fast, orbit.blocks(), ranks)
        for c, w, k in zip(self.columns, weights, ranks, strict=True):
            sizes = np.linalg.svd(w, compute_uv=False)
            if k and sizes[k - 1] < _FALLEN * max(np.max(np.abs(w)) for w in weights):
                raise Degenerate(
                    f"At stage {number} a column of {coordinate_label((c.name, c.head))} falls "
                    "back to zero, which the limit algorithm for matrices does not follow"
                )
        loss, _ = self.flow.forces(
            {n: jnp.asarray(w) for n, w in self._by_leaf([jnp.asarray(w) for w in weights]).items()}
        )
        level = 0.5 * (self.loss + float(loss))
        orbit = orbit.shifted(orbit.crossing(level))
        ends = float(orbit.s[0]), float(orbit.s[-1])
        shift = (_ENTRY - rate * ends[0] - size) / rate
        for c in self.columns:
            c.wait(0.0, shift)
        self.tau, self.offset = self.tau + best, self.offset + shift
        landed = [c.weight for c in self.columns]
        for c, w in zip(self.columns, weights, strict=True):
            c.weight = w
        self.loss, forces = self._evaluate()
        for c, old, g, block in zip(self.columns, landed, forces, orbit.blocks(), strict=True):
            w, c.weight = c.weight, old
            c.land(w, g, block, ends, id(c) in entries, self.floor)
        stage = Stage(
            tau=self.tau,
            offset=self.offset,
            activated=activated,
            deactivated=[],
            value=self._values(),
            loss=self.loss,
            rank=self._ranks(),
            margin=margin,
            level=("loss", level),
            rate=rate,
            shares=dict(zip(activated, share.tolist(), strict=True)) if len(winners) > 1 else {},
        )
        return stage, orbit

    def _check_heads(self, columns: list[Columns], rates: list[float]) -> None:
        """Equal times are no accident between the heads of one leaf that feel one force.

        Their columns then grow at one rate and keep the ratio of their sizes until the orbit,
        which is followed from that ratio; the shares are the squares of the sizes.
        """
        alike = len({c.name for c in columns}) == 1 and np.ptp(rates) <= TIE * abs(rates[0])
        if not alike:
            names = ", ".join(coordinate_label(c.coordinate) for c in columns)
            raise ValueError(
                f"An accidental tie: {names} would jump at the same τ without being heads of one "
                "leaf, and the limit α → 0 does not decide which comes first. Perturb the data."
            )

    def _margin(self, winners: list[Columns], waits, tied, best: float) -> float:
        """How much later the next candidate would come, the winners' second columns included."""
        later = [float(w) for w in np.delete(waits, tied)]
        for c in winners:
            if len(c.exponent) > 1 and c.rates[1] > 0:
                later.append(float(c.exponent[1] / c.rates[1]))
        return min(later, default=math.inf) - best


@dataclasses.dataclass(frozen=True, eq=False)
class ColumnCurves:
    """Curves at finite α from the connecting orbits and the plateaus between them."""

    start: Start
    orbits: list[ColumnOrbit]
    plateaus: list[list[Columns]]

    def composite(self, t: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, dict]:
        """Each orbit at its own time, added up, the saddles between them subtracted."""
        loss = np.full(len(t), self.start.loss)
        values = {n: np.repeat(w[None], len(t), axis=0) for n, w in self.start.value.items()}
        for orbit, time in zip(self.orbits, times, strict=True):
            height, weights = orbit.at(t - time)
            loss = loss + height - orbit.loss[0]
            for n, w in weights.items():
                values[n] = values[n] + w - orbit.weights[n][0]
        return loss, values

    def log_weights(self, stage: int, scale: float, waited: Any) -> dict[str, np.ndarray]:
        """Log singular values at Λ = scale, `waited` flow time after stage `stage`."""
        waited = np.asarray(waited, float)[..., None]
        parts: dict[str, list] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for c in self.plateaus[stage]:
            active = np.log(np.linalg.svd(c.weight, compute_uv=False)[: c.rank])
            dormant = 2.0 * (c.size - c.exponent * scale + c.rates * waited) - math.log(2.0)
            active = np.broadcast_to(active, (*dormant.shape[:-1], c.rank))
            parts.setdefault(c.name, []).append(np.concatenate([active, dormant], axis=-1))
            shapes[c.name] = tuple(i + 1 for i in c.head)
        return {
            n: np.stack(x, axis=-2).reshape(*x[0].shape[:-1], *shapes[n], x[0].shape[-1])
            for n, x in parts.items()
        }
