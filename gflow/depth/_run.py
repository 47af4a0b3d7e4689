"""What is known of tokens over depth."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from ._tokens import Tokens


@dataclasses.dataclass(frozen=True, eq=False)
class DepthRun:
    r"""Tokens over layers, of one network or of several draws.

    `layers` is 0, 1, …, L; `observables[name]` has an entry for each, after a leading axis of
    draws where there are some. From where the deviation of a plain function is rounding alone
    (`resolved` is False) they are NaN. `final`: the tokens at the end.
    """

    layers: Float[np.ndarray, " layers"]
    observables: dict[str, np.ndarray]
    resolved: np.ndarray
    final: Tokens
    draws: int | None = None

    def mean(self, name: str) -> Float[np.ndarray, "..."]:
        """The mean over draws."""
        return np.mean(self._drawn(name), axis=0)

    def error(self, name: str) -> Float[np.ndarray, "..."]:
        """The standard error of `mean`."""
        x = self._drawn(name)
        return np.asarray(np.std(x, axis=0, ddof=1) / np.sqrt(len(x)))

    def interval(
        self, name: str, confidence: float = 0.95
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Between which the expectation lies, by Student's distribution of the mean over draws.

        **Raises:** ValueError for a run of a single network, a confidence outside (0, 1).
        """
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"confidence = {confidence}: a probability between 0 and 1.")
        width = student.ppf(0.5 + 0.5 * confidence, len(self._drawn(name)) - 1) * self.error(name)
        return self.mean(name) - width, self.mean(name) + width

    def _drawn(self, name: str) -> np.ndarray:
        if name not in self.observables:
            raise ValueError(f"No observable is called {name!r}; there are {[*self.observables]}.")
        if self.draws is None or self.draws < 2:
            raise ValueError(
                "Means and intervals are over draws, and this run has one: pass key= and draws=, "
                "at least 2."
            )
        return self.observables[name]

    def __repr__(self) -> str:
        drawn = "" if self.draws is None else f", {self.draws} draws"
        lost = int(np.sum(~self.resolved))
        seen = "" if not lost else f"; {lost} of them below the rounding of a plain function"
        return (
            f"DepthRun({len(self.layers) - 1} layers{drawn}{seen}: {', '.join(self.observables)})"
        )
