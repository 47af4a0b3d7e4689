"""What a trajectory keeps of one leaf, at one time or along a leading axis of times."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from ._base import Coordinates


# no Equinox module: a run is read through thousands of these, and their look-ups cost
@functools.partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["chart"])
@dataclasses.dataclass(frozen=True, eq=False)
class LeafRecord(Mapping[str, Any]):
    """Arrays by name, and the coordinates that know how to read them.

    `record["value"]` is the effective weight and `record["force"]` g = −∂L/∂weight; the others are
    those that the coordinates need to go on from there.
    """

    arrays: dict[str, Any]
    chart: type["Coordinates"]

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def at(self, index: Any) -> "LeafRecord":
        """One of the recorded times, or several of them."""
        return LeafRecord({k: x[index] for k, x in self.arrays.items()}, self.chart)

    @property
    def spectral(self) -> bool:
        """Whether the modes are the singular values of the weight, and not its entries."""
        return self.chart.spectral

    @property
    def entrywise(self) -> bool:
        """Whether the modes are the entries of the weight."""
        return self.chart.entrywise and not self.chart.spectral

    @property
    def product(self) -> bool:
        """Whether the weight is a product of factors, which vanish together at small α."""
        return self.chart.product

    @property
    def plain(self) -> bool:
        """Whether it is a weight held as it is."""
        return self.chart.plain

    def log_norm(self) -> Float[np.ndarray, "..."] | None:
        """log‖W‖ where it is recorded."""
        return self.chart.log_norm(self)

    def log_entries(self) -> Float[np.ndarray, "..."]:
        """log|θ| of every entry, finite where θ itself underflows and logarithms are recorded."""
        return self._log_entries

    def log_modes(self) -> Float[np.ndarray, "... modes"]:
        """Logarithms of what can be active: entries, or singular values of a product."""
        return self._log_modes

    @functools.cached_property
    def _log_entries(self) -> Float[np.ndarray, "..."]:
        return self.chart.log_entries(self)

    @functools.cached_property
    def _log_modes(self) -> Float[np.ndarray, "... modes"]:
        return self.chart.log_modes(self)

    def modes(self) -> tuple[Float[np.ndarray, "... modes"], Float[np.ndarray, "... modes"]]:
        """Size of every mode and the force along it."""
        return self.chart.modes(self)
