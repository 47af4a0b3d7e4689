"""What a prediction is: saddles in order with their times, curves of time, and numbers."""

import dataclasses
import math
from collections.abc import Callable

from jaxtyping import PyTree

from gflow.internal import (
    Decay,
    Displayed,
    Fingerprint,
    Objective,
    Origin,
    Summary,
    Table,
    build_flow,
    log_alpha_of,
    number,
    one_log_alpha,
    rank_label,
)

from . import plot
from ._arguments import Numbers
from ._closed_form import Curve, Number, said
from ._finite_alpha import FiniteAlpha, Orbits
from ._stage import NOWHERE, Stage, Start


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction(Displayed):
    """What a paper, or you, say of a flow: stages as α → 0, curves of flow time, and numbers.

    `start`, `stages`: the saddle path. `at(log_alpha)`: finite-α times and curves.
    `curves`, `numbers`: closed forms (`Curve`, `Number`); `parts`: all of it. One without a
    path (`staged` is False) is made by `Prediction.of`.
    `source`: the paper; `validity`: the regime in which it holds; `ended`: why there are
    no further stages. `accuracy`: error of rate·(TΛ + C), the rounding of the prediction
    itself. `order` D: of the saddles, whose times count log(1/α), or α^{−(D−2)} where D > 2.
    `fingerprint`: what it was made from, None where that is not known.
    """

    start: Start
    stages: list[Stage]
    source: str
    validity: str
    ended: str
    orbits: Orbits | None = dataclasses.field(default=None, repr=False)
    origin: Callable[[], Fingerprint] | None = dataclasses.field(default=None, repr=False)
    accuracy: float = 1e-8
    order: int = 2
    curves: tuple[Curve, ...] = ()
    numbers: tuple[Number, ...] = ()

    @classmethod
    def of(
        cls,
        *parts: Curve | Number,
        source: str = "",
        validity: str = "",
        made_from: tuple[PyTree, Objective] | None = None,
        decay: Decay = 0.0,
    ) -> "Prediction":
        """A prediction by curves and numbers alone, for `theory.compare`.

        **Arguments:** `parts`: a `Curve` or a `Number` each, every label once. `source`,
        `validity`: by default those of the parts. `made_from`: (model, objective) that the closed
        forms were worked out for, with `decay`: a run of another problem is then told apart.

        **Raises:** ValueError without parts, for a label that occurs twice, for what is neither.

        ```python
        curve = theory.Curve("loss", lambda t: 0.5 * np.exp(-2.0 * t), source="eq. 4")
        prediction = theory.Prediction.of(curve, made_from=(model, objective))
        print(theory.compare(gflow.simulate(model, objective, t1=5.0), prediction))
        ```
        """
        curves = tuple(part for part in parts if isinstance(part, Curve))
        numbers = tuple(part for part in parts if isinstance(part, Number))
        if not parts or len(curves) + len(numbers) < len(parts):
            others = [part for part in parts if not isinstance(part, Curve | Number)]
            raise ValueError(
                f"Prediction.of was given {others or 'nothing'}: it takes theory.Curve and "
                "theory.Number objects, one after the other."
            )
        labels = [part.label for part in parts]
        if twice := [x for i, x in enumerate(labels) if x in labels[:i]]:
            raise ValueError(
                f"Two parts are called {twice[0]!r}: give one of them another label=, so that "
                "tables can tell them apart."
            )
        said = ["; ".join(dict.fromkeys(getattr(p, what) for p in parts if getattr(p, what)))
                for what in ("source", "validity")]  # fmt: skip
        origin = None
        if made_from is not None:
            model, objective = made_from
            flow = build_flow(model, objective, decay=decay)
            origin = Origin(flow, model, log_alpha_of(model)[0])
        return cls(
            NOWHERE, [], source or said[0], validity or said[1], "no stages are predicted",
            origin=origin, curves=curves, numbers=numbers,
        )  # fmt: skip

    @property
    def parts(self) -> tuple[Stage | Curve | Number, ...]:
        """Stages, curves and numbers, in this order."""
        return (*self.stages, *self.curves, *self.numbers)

    @property
    def staged(self) -> bool:
        """Whether it says by which saddles the flow goes (perhaps that it stays at the first)."""
        return self.start is not NOWHERE

    @property
    def fingerprint(self) -> Fingerprint | None:
        return None if self.origin is None else self.origin()

    def at(
        self,
        log_alpha: float | None = None,
        *,
        alpha: float | None = None,
        log10_alpha: float | None = None,
    ) -> FiniteAlpha:
        """Times, surviving plateaus and curves at one α.

        **Arguments:** α by its natural logarithm `log_alpha`, by `log10_alpha` or as `alpha`.

        **Raises:** ValueError unless it is given once and is below 1, and without stages.
        """
        given = one_log_alpha(log_alpha, alpha, log10_alpha)
        log_alpha = number("log_alpha", given, "the natural logarithm of α")
        if not self.staged:
            raise ValueError(
                f"{self.source or 'This prediction'} has no stages, whose times depend on α: its "
                "curves are functions of flow time, prediction.curves[0].value(t)."
            )
        if not (math.isfinite(log_alpha) and log_alpha < 0):
            raise ValueError(
                f"log_alpha = {log_alpha}: a finite-α prediction needs 0 < α < 1, that is a "
                "negative, finite natural logarithm."
            )
        return FiniteAlpha(self.start, self.stages, log_alpha, self.orbits, self.source, self.order)

    def cited(self) -> list[str]:
        """What it rests on, for `gflow.cite`."""
        said = [self.source, *(part.source for part in (*self.curves, *self.numbers))]
        return [words for words in dict.fromkeys(said) if words]

    def plot(self, ax=None, *, t: Numbers | None = None):
        """Staircase of the limit loss against τ; without stages, the curves at flow times `t`."""
        if self.staged:
            return plot.staircase(self, ax=ax)
        return plot.curves(self, t, ax=ax)

    def _summary(self) -> Summary:
        stages, forms = self.stages, (*self.curves, *self.numbers)
        title = f"Prediction: {self.source}" if self.source else "Prediction"
        facts = [(name, said) for name, said in (("holds", self.validity),) if said]
        if self.staged:
            start = f"loss {self.start.loss:.6g}, rank {rank_label(self.start.rank)}"
            facts += [("start", start), ("ended", self.ended)]
        tables = []
        if self.staged:
            rows = [
                [f"{s.tau:.8f}", f"{s.offset:.6f}", f"{s.loss:.6g}", rank_label(s.rank),
                 f"{s.margin:.3g}", s.label]
                for s in stages
            ]  # fmt: skip
            tables.append(Table(["T", "C", "loss after", "rank after", "margin", "switches"], rows))
        if forms:
            tables.append(Table(["closed form", "value", "holds"], [_row(x) for x in forms]))
        return Summary(title, facts, tables)


def _row(part: Curve | Number) -> list[str]:
    value = "a curve of flow time"
    if isinstance(part, Number):
        value = f"{part.predicted:.8g} {part.unit}".strip()
    return [part.label, value, said(part)]
