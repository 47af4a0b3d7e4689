"""Predicted orbits beside a run: what each has still ahead of it, and where it pauses."""

import dataclasses
from typing import Any

import numpy as np

from gflow.internal import Crossing

from .._prediction import Prediction
from ._readings import Reader

#: A drop of the loss is that of an orbit if both agree to this share of it.
_ALIKE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedOrbits:
    """The orbits of stages that a run passes one by one, each placed at the run's own crossing.

    An orbit may come near another saddle on its way and pause there for any time: a run that ends
    in such a pause has not reached the plateau predicted, and one that passes it shows two
    transitions where one is predicted.
    """

    prediction: Prediction
    crossings: list[Crossing | None]
    reader: Reader

    def ahead(self, k: int, clock: float) -> tuple[float, dict[str, np.ndarray]] | None:
        """How far loss and weights are from the saddle of stage k by its orbit; None without."""
        found = self.crossings[k]
        if not self._orbits or found is None:
            return None
        return self._orbits[k].ahead(clock - found.clock)

    def owners(self, alone: list[int]) -> list[int | None]:
        """For each transition of the run which stage's orbit it lies on, None where on none.

        That is the orbit on which the loss falls as much between the same times: at the saddles
        between which an orbit runs it falls no further on that orbit.
        """
        out: list[int | None] = [None] * len(self.reader.peaks)
        if not self._orbits:
            return out
        steps = np.array(self.reader.valleys)
        times, losses = self.reader.trajectory.times[steps], self.reader.trajectory.loss[steps]
        falls = -np.diff(losses)
        for k in alone:
            found = self.crossings[k]
            if found is None:
                continue
            own = -np.diff(self._orbits[k].at(times - found.clock)[0])
            alike = np.abs(own - falls) <= _ALIKE * np.abs(falls)
            for i in np.flatnonzero(alike):
                out[i] = k
        return out

    @property
    def _orbits(self) -> list[Any]:
        """Those there are, one a stage, in the time of this run; none without."""
        known, run = self.prediction.orbits, self.reader.trajectory
        if known is None or self.prediction.order != 2 or run.lapses is not None:
            return []
        return known.orbits if len(known.orbits) == len(self.prediction.stages) else []
