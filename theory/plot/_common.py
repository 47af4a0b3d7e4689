"""What figures need of predictions and comparisons, and the lines that they share."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gflow import Trajectory

from .._closed_form import Curve, Number
from .._finite_alpha import FiniteAlpha
from .._stage import Stage, Start

#: The limit α → 0.
LIMIT: dict[str, Any] = {"color": "0.35", "ls": (0, (1, 1.5)), "lw": 1.2}
#: What is predicted at the α of the run.
FINITE: dict[str, Any] = {"color": "black", "ls": (0, (4, 2)), "lw": 1.0}
#: Single predicted values.
PREDICTED: dict[str, Any] = {"marker": "o", "ls": "", "mfc": "none", "mec": "black", "mew": 0.8}
TIME_LABEL = "flow time $t$"


@runtime_checkable
class Predicted(Protocol):
    """What figures need of a `theory.Prediction`."""

    @property
    def start(self) -> Start: ...
    @property
    def stages(self) -> list[Stage]: ...
    @property
    def curves(self) -> tuple[Curve, ...]: ...
    @property
    def numbers(self) -> tuple[Number, ...]: ...
    @property
    def staged(self) -> bool: ...
    @property
    def order(self) -> int: ...
    def at(self, log_alpha: float) -> FiniteAlpha: ...


@runtime_checkable
class Measured(Protocol):
    """A number beside a run: a row of a `theory.Comparison`."""

    @property
    def part(self) -> str: ...
    @property
    def predicted(self) -> float: ...
    @property
    def measured(self) -> float: ...
    @property
    def error(self) -> float: ...


@runtime_checkable
class Residual(Protocol):
    """What figures need of a claim of a comparison."""

    @property
    def key(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def miss(self) -> float: ...
    @property
    def bar(self) -> float: ...
    @property
    def allowance(self) -> float: ...


@runtime_checkable
class Restarted(Protocol):
    """What figures need of `theory.assumptions.perturb_and_restart`'s result."""

    @property
    def stage(self) -> int: ...
    @property
    def sizes(self) -> np.ndarray: ...
    @property
    def distance(self) -> np.ndarray: ...


@runtime_checkable
class Judged(Protocol):
    """What figures need of a `theory.Comparison`."""

    @property
    def trajectory(self) -> Trajectory: ...
    @property
    def prediction(self) -> Predicted: ...
    @property
    def closed_forms(self) -> Sequence[Measured]: ...
    @property
    def claims(self) -> Sequence[Residual]: ...
