r"""From saddle to saddle: who blows up first on each plateau, and what its drop does to the others.

On plateau k dormant units follow x' = F_k(x) in τ = α^{D−2}t. The first to blow up, at T_k, makes
the drop; its orbit takes a time of order one, α^{D−2} in τ. To first order in that, a displacement
ξ of the others goes with the linearised flow and moves T_k by b_k, and the drop adds to it

    b_k (F_k − F_{k+1}) + ∫ (F(w(t)) − F_k [t < 0] − F_{k+1} [t > 0]) dt.

The offset of stage k is C_k = b_k + the time from the blow-up to the middle of its drop.
"""

import functools
import math
import warnings
from collections.abc import Mapping

import numpy as np

from gflow.internal import Bar, Binding, Coordinate, Flow, UnitAxes, time_unit

from ..._prediction import Prediction
from ..._stage import Level, Stage, Start
from ._curves import Plateau, UnitCurves
from ._forces import Units, curvature, joint_terms, leading, terms, whole
from ._orbit import FLAT, Approach, Degenerate, Drop, drop, hidden
from ._race import Winner, after, approached, direction, race

SOURCE = "limit algorithm of saddles of order three and more"
VALIDITY = (
    "α → 0 with the O(1) factors fixed; units that do not feel each other while they are dormant; "
    "each winner unique (see margin), each saddle a strict minimum on its live units"
)
_HIDDEN = "a mode is hidden in one of them. Bind the parts of each mode to a unit of its own"
#: Terms of the force below the leading one that count as none, over the leading one.
_NONE = 1e-9
#: Growth, over that at the start, which counts as none.
_STILL = 1e-9
#: The smallest gap between the growth of a direction and that of those beside it.
_GAP = 1e-3
#: Blow-up times that differ by less, relatively, are one.
TIED = 1e-9
#: Share of the largest curvature of live units by which a negative one is real.
_UNSTABLE = 1e-8
#: Random directions by which it is asked what dormant units can feel.
_SAMPLES = 8


def follow(
    flow: Flow,
    labels: Mapping[str, UnitAxes],
    log_alpha: float,
    order: int,
    max_stages: int,
    bar: Bar,
) -> Prediction:
    """The path of a model whose trained leaves are all in units.

    `labels`: how every leaf is bound to units. `order`: D. `bar`: told of every stage.

    **Raises:** ValueError for forces of no common degree, units that feel each other while they are
    dormant, a start that is not small, and where not even the first stage can be told.
    """
    units, dormant = _flattened(flow, labels, order, log_alpha)
    path = _Path(units, dormant, log_alpha)

    @functools.cache
    def offsets(log_alpha: float) -> tuple[float, ...]:
        at = _Path(units, dormant, log_alpha, finite=True)
        while len(at.stages) < len(path.stages):
            try:
                at.advance()
            except ValueError:  # not small, or no race of its own at this α
                break
        known = [s.offset for s in at.stages]
        return (*known, *[math.nan] * (len(path.stages) - len(known)))

    while len(path.stages) < max_stages:
        try:
            if not path.advance():
                break
        except Degenerate as reason:
            if not path.stages:
                raise
            path.ended = f"At stage {len(path.stages) + 1}, {reason}"
            warnings.warn(f"The saddle path is predicted up to here: {path.ended}", stacklevel=3)
            break
        bar.to(len(path.stages), loss=f"{path.stages[-1].loss:.6g}")
    else:
        path.ended = f"stopped at max_stages = {max_stages}"
    limits = tuple(s.offset for s in path.stages)
    curves = UnitCurves(units, path.drops, path.plateaus, limits, offsets)
    return Prediction(
        path.start, path.stages, SOURCE, VALIDITY, path.ended, curves, accuracy=1e-6, order=order
    )


def _flattened(
    flow: Flow, labels: Mapping[str, UnitAxes], order: int, log_alpha: float
) -> tuple[Units, np.ndarray]:
    """The flow of flat weights in units, and its O(1) factors, the weights over α."""
    names, coordinates = flow.names, flow.coordinates
    arrays = [
        np.asarray(c.initial, float) * math.exp(float(c.log_scale) - log_alpha) for c in coordinates
    ]
    counts: dict[str, int] = {}
    for name, x in zip(names, arrays, strict=True):
        own = labels[name]
        counts.setdefault(own.label, math.prod(x.shape[a] for a in own.axes))
    first = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    owner = [
        first[own.label] + Binding.of(x.shape, own, counts[own.label]).owner
        for own, x in zip((labels[n] for n in names), arrays, strict=True)
    ]
    every = tuple((label, i) for label, count in counts.items() for i in range(count))
    leaves = tuple((n, labels[n].label, x.shape) for n, x in zip(names, arrays, strict=True))
    flat = np.concatenate([x.ravel() for x in arrays])
    return Units(flow, tuple(np.concatenate(owner).tolist()), every, leaves, order), flat


class _Path:
    """Where the path stands, and what it has come by.

    Of a `finite` α a winner has, when it is large, the directions that it still has at that α.
    """

    def __init__(self, units: Units, dormant: np.ndarray, log_alpha: float, finite: bool = False):
        self.units, self.log_alpha, self.finite = units, log_alpha, finite
        self.live, self.dormant = np.zeros_like(dormant), dormant
        self.change = np.zeros_like(dormant)
        self.loss = whole(units, self.live)[0]
        self.tau, self.ended = 0.0, ""
        self.stages: list[Stage] = []
        self.drops: list[Drop] = []
        self.plateaus = [Plateau(self.live, dormant, self.loss)]
        zero = {n: np.asarray(x) for n, x in units.shaped(self.live).items()}
        self.start = Start(0.0, zero, self.loss, self._ranks())
        self.scale = self._scale()
        if not self.scale > 0.0:
            raise ValueError(
                f"No unit feels a force of degree {units.order - 1} by itself: dormant units "
                "multiply each other. Bind what multiplies each other to one unit (of matrices, "
                "the parts of each mode)."
            )

    @property
    def dormant_units(self) -> np.ndarray:
        return self.units.norms(self.live) == 0.0

    def advance(self) -> bool:
        """One more stage; False where nothing that is dormant grows."""
        units = self.units
        if not self.finite:
            self._check_live()
        if not self.dormant_units.any() or self._scale() < _STILL * self.scale:
            self.ended = "complete: nothing that is dormant feels a force that makes it grow"
            return False
        if not self.finite:
            self._check_dormant()
        found, last = race(units, self.live, self.dormant, self.change)
        order = np.argsort(found.times, kind="stable")
        unit, wait = int(order[0]), float(found.times[order[0]])
        if not math.isfinite(wait):
            self.ended = "complete: what is dormant and feels a force is on its way into zero"
            return False
        later = float(found.times[order[1]]) if len(order) > 1 else math.inf
        if later - wait < TIED * wait:
            raise Degenerate(
                f"{self._name(unit)} and {self._name(int(order[1]))} blow up at one time, "
                f"τ = {self.tau + wait:.8g}: both become live, and what follows is decided by how "
                "they share what there is to learn"
            )
        won = direction(units, self.live, last, unit)
        off = float(np.linalg.norm(np.where(units.mask[unit], last, 0.0) - won.direction))
        if won.gap < _GAP and off > 1e-12:
            raise Degenerate(
                f"{self._name(unit)} blows up in no one direction: others beside it grow as fast "
                f"(gap {won.gap:.2g})"
            )
        rest = np.where(units.owner == unit, 0.0, self.dormant)
        moved = np.where(units.owner == unit, 0.0, self.change)
        there, change = after(units, self.live, rest, moved, wait)
        made = drop(units, self.live, unit, won, there, self.loss, self._approach(unit, won))
        if not self.finite:
            self._check_lower(made, there)
        late = float(found.changes[unit])
        before, beyond = (leading(units, w, there) for w in (self.live, made.saddle))
        self.tau += wait
        self._check_small(made, wait)
        self.live, self.loss = made.saddle, made.saddle_loss
        self.dormant, self.change = there, change + late * (before - beyond) + made.acted
        self.drops.append(made)
        self.plateaus.append(Plateau(self.live, there, self.loss))
        self.stages.append(
            Stage(
                tau=self.tau,
                offset=late + made.crossing,
                activated=self._coordinates(unit),
                deactivated=[],
                value={n: np.asarray(x) for n, x in units.shaped(self.live).items()},
                loss=self.loss,
                rank=self._ranks(),
                margin=later - wait,
                level=Level("loss", made.level),
                curvature=self._curvature(),
                rate=1.0 / made.width,
                exponent=float(units.order - 2),
            )
        )
        return True

    def _approach(self, unit: int, won: Winner) -> Approach:
        """The direction of the winner by its size."""
        if not self.finite:
            return Approach(0.0, lambda size: won.direction)
        began = math.log(self.units.norms(self.dormant)[unit]) + self.log_alpha

        def at(size: float) -> np.ndarray:
            growth = max(math.log(size) - began, 0.0)
            return approached(self.units, self.live, self.dormant, unit, growth)

        return Approach(math.exp(began), at)

    def _name(self, unit: int) -> str:
        label, i = self.units.labels[unit]
        return f"unit {i} of {label!r}"

    def _coordinates(self, unit: int) -> list[Coordinate]:
        label, i = self.units.labels[unit]
        return [(name, (i,)) for name, own, _ in self.units.leaves if own == label]

    def _ranks(self) -> dict[str, np.ndarray]:
        live = ~self.dormant_units
        labels = np.array([label for label, _ in self.units.labels])
        return {
            name: np.asarray(np.sum(live & (labels == own))) for name, own, _ in self.units.leaves
        }

    def _scale(self) -> float:
        """How large forces on dormant units can be, by random directions."""
        rng, units = np.random.default_rng(0), self.units
        aside = self.dormant_units[units.owner] * rng.normal(size=(_SAMPLES, len(units.owner)))
        forces = [
            leading(units, self.live, x / units.norms(x)[units.owner].clip(1e-300)) for x in aside
        ]
        return float(np.max(np.abs(forces)))

    def _curvature(self) -> float:
        """The smallest positive curvature of the loss among live units."""
        values = self._curvatures()
        return float(np.min(values[values > FLAT * np.max(values)]))

    def _curvatures(self) -> np.ndarray:
        own = ~self.dormant_units[self.units.owner]
        return np.linalg.eigvalsh(curvature(self.units, self.live)[np.ix_(own, own)])

    def _check_live(self) -> None:
        """That live units stay where they are."""
        if not self.live.any():
            return
        values = self._curvatures()
        if values[0] < -_UNSTABLE * np.max(np.abs(values)):
            raise Degenerate(
                "the live units can learn more by themselves, at an exponential pace that is "
                f"overtaken by no race of dormant ones: {_HIDDEN}"
            )
        if hidden(self.units, self.live):
            raise Degenerate(f"the live units have a way down that is flat at first: {_HIDDEN}")

    def _check_dormant(self) -> None:
        """That dormant units feel forces of degree D − 1 of their own."""
        units, live, dormant = self.units, ~self.dormant_units, self.dormant_units
        joint = joint_terms(units, self.live, self.dormant)
        alone = terms(units, self.live, self.dormant)
        top = float(np.max(np.abs(alone[-1]), initial=0.0))
        own = dormant[units.owner]
        for degree in range(1, units.order - 1):
            largest = float(np.max(np.abs(joint[degree][own]), initial=0.0))
            if largest > _NONE * top:
                raise Degenerate(
                    f"dormant units feel forces of degree {degree} here, at the start of degree "
                    f"{units.order - 1}: this saddle is of another order, and left in a time that "
                    "counts as none in this clock"
                )
        for degree in range(1, units.order // 2 + 1):
            if live.any() and np.max(np.abs(joint[degree][~own])) > _NONE * top:
                raise Degenerate(
                    "live units give way to dormant ones by as much as these move: their force is "
                    "not its leading order at fixed live ones"
                )
        across = np.max(np.abs(joint[-1] - alone[-1])[own], initial=0.0)
        if across > _NONE * top:
            raise Degenerate(
                "dormant units feel each other: they do not race each for itself. Bind what "
                "multiplies each other to one unit (of matrices, the parts of each mode)"
            )

    def _check_lower(self, made: Drop, dormant: np.ndarray) -> None:
        """That a drop moves dormant units by little: forces of degree D − 1 all along it."""
        own = np.isin(self.units.owner, np.flatnonzero(self.units.norms(dormant)))
        largest = max(
            float(np.max(np.abs(leading(self.units, w, dormant))))
            for w in (made.weights[0], made.weights[-1])
        )
        for w in made.weights[:: max(1, len(made.weights) // 8)]:
            found = terms(self.units, w, dormant)[:-1, own]
            if np.max(np.abs(found), initial=0.0) > _NONE * max(largest, 1e-300):
                raise Degenerate(
                    "the drop moves dormant units by forces of a lower degree than they race by, "
                    "and so by a factor: what they are afterwards is not predicted"
                )

    def _check_small(self, made: Drop, wait: float) -> None:
        unit = time_unit(self.log_alpha, self.units.order)
        if not self.stages and wait * unit < 2.0 * made.width:
            raise ValueError(
                f"The first drop would come at t = {wait * unit:.4g} and takes {made.width:.4g} "
                "itself: the start is not small. Take a smaller log_scale."
            )
