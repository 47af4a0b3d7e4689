"""Loss and forces on the way: on which sides of kinks, and what of them counts as zero."""

import copy
from collections.abc import Sequence

import numpy as np

from gflow.internal import Flow, on_device

from ._fast_system import FastSystem
from ._kinks import has_kinks, on_sides
from ._orbits import Limits
from ._saddle_leaf import SaddleLeaf, layout_of
from ._scales import Scale, felt


class Forces:
    """The flow, and one `Scale` a part of the forces seen so far: what is far below it is zero.

    `drop`: the largest fall of the loss that weights seen so far may bring about.
    """

    def __init__(self, flow: Flow, parts: Sequence[SaddleLeaf]):
        self.flow, self.drop = flow, 0.0
        self.scales = [Scale(p.roundings, p.decay) for p in parts]
        self.kinked = has_kinks(flow, parts)

    def gather(self, groups: Sequence[Sequence[int]]) -> None:
        """One scale for each group of parts, which have felt the same."""
        self.scales = [self.scales[group[0]] for group in groups]

    def divide(self, counts: Sequence[int]) -> None:
        """Copies of the scale of every part, for what it is divided into."""
        pairs = zip(self.scales, counts, strict=True)
        self.scales = [copy.copy(scale) for scale, count in pairs for _ in range(count)]

    def sided(
        self,
        parts: Sequence[SaddleLeaf],
        across: Sequence[np.ndarray] | None = None,
        draw: int = 0,
    ) -> Flow:
        """The flow on the sides of the kinks at zero that the weights are on, or `across`.

        `draw`: which sizes the dormant weights are given, should these matter.
        """
        if not self.kinked:
            return self.flow
        none = [np.zeros(p.weight.shape, bool) for p in parts]
        return on_sides(self.flow, parts, none if across is None else across, draw)

    def see(
        self,
        parts: Sequence[SaddleLeaf],
        where: str,
        weights: Sequence[np.ndarray] | None = None,
        across: Sequence[np.ndarray] | None = None,
    ) -> tuple[float, list[np.ndarray]]:
        """Loss and the force on every part at its weight, or at `weights`; both are remembered."""
        single = tuple(p.single for p in parts)
        at = [on_device(w) for w in ([p.weight for p in parts] if weights is None else weights)]
        loss, forces, curvatures = felt(self.sided(parts, across), at, layout_of(parts), single)
        forces = [np.asarray(g) for g in forces]
        pairs = zip(parts, forces, strict=True)
        broken = {p.name for p, g in pairs if not np.all(np.isfinite(g))}
        if broken:
            raise ValueError(
                f"The gradient {where} is not finite in {sorted(broken)}, so the limit has no "
                "rates there. Look for a norm, root, logarithm or division of weights that are "
                "zero, and add a small constant inside it or give it a derivative at zero."
            )
        for scale, p, g, h in zip(self.scales, parts, forces, curvatures, strict=True):
            scale.see(p.size_of(g), np.nan_to_num(np.asarray(h)))
            self.drop = max(self.drop, scale.drop())
        self.drop = max(self.drop, abs(float(loss)))
        return float(loss), forces

    def floors(self) -> list[np.ndarray]:
        """Forces up to here are zero, part by part."""
        return [scale.floor(self.drop) for scale in self.scales]

    def pull(self, parts: Sequence[SaddleLeaf], forces: Sequence[np.ndarray]) -> bool:
        """Whether one of these forces is not zero."""
        rows = zip(parts, forces, self.floors(), strict=True)
        return any(bool(np.any(p.size_of(g) > floor)) for p, g, floor in rows)

    @property
    def largest(self) -> float:
        """The largest force seen."""
        return max(float(np.max(scale.force)) for scale in self.scales)

    def limits(self, fast: FastSystem) -> Limits:
        """What is small and what is large, for every component of an orbit's pieces."""
        sizes = [p.flat().size for p in fast.pieces]
        return Limits(
            _spread([scale.noise(self.drop) for scale in self.scales], sizes),
            _spread(self.floors(), sizes),
            _spread([scale.reach for scale in self.scales], sizes),
        )


def _spread(values: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """One value for every component of the pieces."""
    pairs = zip(values, sizes, strict=True)
    return np.concatenate([np.broadcast_to(np.ravel(x), n) for x, n in pairs])
