"""A plain weight as direction and log-size, and how its entries are bound to units of a model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..coordinates._bases import as_given
from ..coordinates._raw import RawCoordinates
from ..coordinates._units import Binding, UnitAxes
from ._base import Constant, Trainable, checked_log_alpha, float_array, known_time


class Scaled(Trainable):
    """A plain weight as direction and log-size: W = e^{log_scale}·array.

    The flow moves `array` at rate e^{−log_scale}·g. `elapsed` is the flow time it stands at,
    NaN before it has been in a run.

    `units` is a label where three and more small factors meet: the leading `unit_axes` axes then
    count *units*, the modes of the model, and slices of leaves with one label are bound, number by
    number, to one unit (a head: v[h], K[h], Q[h], all with `units="heads"`). `gflow.simulate`
    follows units from any size through all saddles that their products make. A unit is one mode: of
    a weight that has several, each is one.

    `interfaces` names the axes at which one matrix meets the next with nothing in between, as in
    W₃W₂W₁: of every leaf a name or None an axis, and axes of one name meet. What is handed over
    there may be turned, W₁ → RW₁, W₂ → W₂Rᵀ, and a run turns it after every step so that the modes
    of general matrices stay apart: unit k is the k-th largest direction at each of them. Name all
    such axes of a model.

    **Raises** ValueError when e^{±log_scale} leaves the float range, for units that an array does
    not have, and for interfaces that are not one name or None an axis, or are beside units. What is
    no interface of the loss `gflow.simulate` refuses.

    ```python
    v = gflow.Scaled(jax.random.normal(a, (5,)), -230.26, units="heads")
    k = gflow.Scaled(jax.random.normal(b, (5, 4)), -230.26, units="heads")
    w1 = gflow.Scaled(jax.random.normal(a, (5, 4)), -138.16, interfaces=("h1", None))
    w2 = gflow.Scaled(jax.random.normal(b, (5, 5)), -138.16, interfaces=("h2", "h1"))
    ```
    """

    array: Float[Array, "..."]
    _log_scale: Constant
    _elapsed: Constant
    _bases: tuple[Constant, ...]
    units: str | None = eqx.field(static=True, default=None)
    unit_axes: int = eqx.field(static=True, default=1)
    interfaces: tuple[str | None, ...] = eqx.field(static=True, default=())

    def __init__(
        self, array: ArrayLike, log_scale: ArrayLike, *, units: str | None = None,
        unit_axes: int = 1, interfaces: Sequence[str | None] = (),
    ):  # fmt: skip
        self.array = float_array(array, "array")
        if not np.all(np.isfinite(np.asarray(self.array))):
            raise ValueError("Scaled(array, log_scale): array has NaN or infinite entries.")
        scale = float(np.asarray(log_scale))
        limit = -math.log(np.finfo(self.array.dtype).tiny)
        if not abs(scale) < limit:
            raise ValueError(
                f"Scaled(array, log_scale={scale:g}): e^±log_scale must be a float, that is "
                f"|log_scale| < {limit:.0f}. Below that use gflow.Hadamard for products."
            )
        if units is not None and not 1 <= unit_axes <= self.array.ndim:
            raise ValueError(
                f"Scaled(array, units={units!r}, unit_axes={unit_axes}): units are counted by the "
                f"first one or more axes of the array, whose shape is {self.array.shape}."
            )
        self.interfaces = _checked_interfaces(interfaces, self.array, units)
        self._log_scale = Constant(np.asarray(scale, self.array.dtype))
        self._elapsed = Constant(np.asarray(np.nan, self.array.dtype))
        self.units, self.unit_axes = units, unit_axes
        widths = [self.array.shape[a] for a in self._axes]
        self._bases = tuple(Constant(np.eye(n, dtype=self.array.dtype)) for n in widths)

    @property
    def log_scale(self) -> Float[Array, "..."]:
        return self._log_scale.value

    @property
    def elapsed(self) -> Float[Array, "..."]:
        return self._elapsed.value

    @property
    def value(self) -> Float[Array, "..."]:
        bases = [basis.value for basis in self._bases]
        return as_given(jnp.exp(self.log_scale) * self.array, self._axes, bases)

    @property
    def _axes(self) -> tuple[int, ...]:
        """The axes that are interfaces."""
        return tuple(a for a, name in enumerate(self.interfaces) if name)

    def _log_sizes(self) -> Float[np.ndarray, "..."]:
        with np.errstate(divide="ignore"):
            return np.log(np.abs(np.asarray(self.array))) + np.asarray(self.log_scale)

    def _members(self) -> int | None:
        return self.elapsed.shape[0] if self.elapsed.ndim else None

    def _facts(self) -> list[tuple[str, str]]:
        met = ", ".join(name or "–" for name in self.interfaces)
        bound = [("units", self.units)] if self.units is not None else []
        return [*super()._facts(), *bound, *([("interfaces", met)] if met else [])]

    def conserved(self) -> Float[Array, "..."]:
        return jnp.zeros((0,), self.array.dtype)

    def coordinates(self, decays: bool) -> RawCoordinates:
        bases = tuple(basis.value for basis in self._bases)
        return RawCoordinates(self.array, self.log_scale, bases, self._axes)

    def at_record(self, record: Mapping[str, Any], time: float) -> "Scaled":
        if "log_norm" in record:  # of an escape, which sets the scale anew
            return Scaled(record["direction"], record["log_norm"], **self._bound)
        if "log_size" in record:  # of units, of which the largest sets it
            return self._of_units(record, time)
        array = jnp.asarray(record["array"])
        return self._at(array, Constant(np.asarray(time, array.dtype)))

    def rescaled(self, log_alpha: ArrayLike) -> "Scaled":
        """The same weight before any run, in units at log-size `log_alpha`."""
        never = Constant(jnp.full_like(self.elapsed, jnp.nan))
        if units_of(self) is not None:
            scale = checked_log_alpha(log_alpha, required=True)
            return eqx.tree_at(
                lambda p: (p._log_scale, p._elapsed), self,
                (Constant(jnp.broadcast_to(scale, self.log_scale.shape)), never),
            )  # fmt: skip
        return self if np.all(np.isnan(self.elapsed)) else self._at(self.array, never)

    def plain(self) -> "Scaled":
        """The same weight as an array of log-size 0, at the same time."""
        plain = Scaled(self.value, 0.0, **self._bound)
        return eqx.tree_at(lambda p: p._elapsed, plain, self._elapsed)

    def times(self) -> set[float]:
        return known_time(self.elapsed)

    def numbers(self, log_alpha: float) -> dict[str, Any]:
        if units_of(self) is not None and log_alpha < 0.0:
            return {"array": self.array, "log-size over α": self.log_scale - log_alpha}
        return {"array": self.array, "log-size": self.log_scale}

    def _at(self, array: Array, elapsed: Constant) -> "Scaled":
        return eqx.tree_at(lambda p: (p.array, p._elapsed), self, (array, elapsed))

    @property
    def _bound(self) -> dict[str, Any]:
        of_units = {"units": self.units, "unit_axes": self.unit_axes}
        return of_units | {"interfaces": self.interfaces}

    def _of_units(self, record: Mapping[str, Any], time: float) -> "Scaled":
        """In the bases that it is recorded in, in which dormant units keep their digits."""
        direction, sizes = np.asarray(record["direction"]), np.asarray(record["log_size"])
        own = units_of(self)
        assert own is not None
        binding = Binding.of(direction.shape, own, len(sizes))
        share = np.exp(sizes - np.max(sizes))[binding.owner]
        array = (share * direction.ravel()).reshape(direction.shape)
        there = Scaled(array, np.max(sizes), **self._bound)
        names = sorted(name for name in record if name.startswith("basis_"))
        bases = tuple(Constant(np.asarray(record[name])) for name in names)
        elapsed = Constant(np.asarray(time, array.dtype))
        return eqx.tree_at(lambda p: (p._elapsed, p._bases), there, (elapsed, bases))


def units_of(leaf: Any) -> UnitAxes | None:
    """How the entries of a leaf are bound to units, if they are."""
    if isinstance(leaf, Scaled) and leaf.units is not None:
        return UnitAxes(leaf.units, tuple(range(leaf.unit_axes)))
    if isinstance(leaf, Scaled) and any(leaf.interfaces):
        axes = tuple(a for a, name in enumerate(leaf.interfaces) if name)
        names = tuple(name for name in leaf.interfaces if name)
        return UnitAxes(names[0], axes, names)
    return None


def _checked_interfaces(
    interfaces: Sequence[str | None], array: Array, units: str | None
) -> tuple[str | None, ...]:
    names = tuple(interfaces)
    if not names:
        return ()
    given = f"Scaled(array, interfaces={names!r})"
    if units is not None:
        raise ValueError(f"{given}: a leaf has units or interfaces, and units={units!r} was given.")
    if len(names) != array.ndim or not all(x is None or (isinstance(x, str) and x) for x in names):
        raise ValueError(
            f"{given}: one name for every axis of the array, whose shape is {array.shape}, None "
            "where it is no interface."
        )
    known = [name for name in names if name]
    if not known or len(set(known)) < len(known):
        raise ValueError(f"{given}: the axes that are interfaces need one name each.")
    return names
