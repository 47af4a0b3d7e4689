"""From a flow of plain leaves to one of units, each bound across leaves."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..coordinates._units import Binding, UnitAxes, UnitCoordinates
from ..flow._flow import Flow
from ..parameters._scaled import units_of
from ._interfaces import SAME, turning
from ._round import divide, united
from ._units import FIRST, PLAIN, SLOWEST, Clockwork, UnitFlow, rate_of


def bindings(leaves: Mapping[str, Any]) -> dict[str, UnitAxes]:
    """Of trained leaves their units; leaves that interfaces join have one label.

    **Raises:** ValueError for leaves without units beside others that have them.
    """
    found = {name: units_of(leaf) for name, leaf in leaves.items()}
    known = {name: units for name, units in found.items() if units is not None}
    if known and len(known) < len(found):
        without = ", ".join(repr(name) for name in found if name not in known)
        raise ValueError(
            f"The leaves {', '.join(map(repr, known))} have units, and {without} has not: all "
            "weights of such a model move in units. Give every trained leaf one "
            "(gflow.Scaled(array, log_scale, units=...)), or hold it in gflow.Frozen."
        )
    return _joined(known)


def _joined(known: dict[str, UnitAxes]) -> dict[str, UnitAxes]:
    """One label for all leaves that meet at interfaces, one after another."""
    labels = {name: units.label for name, units in known.items()}
    for _ in known:
        for one, other in itertools.combinations(known, 2):
            if set(known[one].interfaces) & set(known[other].interfaces):
                labels[one] = labels[other] = min(labels[one], labels[other])
    return {name: units._replace(label=labels[name]) for name, units in known.items()}


def bound(
    flow: Flow,
    units: Mapping[str, UnitAxes],
    start: Float[np.ndarray, " members"],
    members: int | None = None,
    shared: bool = True,
) -> UnitFlow:
    """The flow with its plain leaves bound to units, at time `start`, or a batch of flows.

    `units`: of all leaves. The members of a batch have one objective if it is `shared`.

    **Raises:** ValueError for decay, float32, one label with different numbers of units, interfaces
    of several widths or that the loss does not have, and a unit of norm zero or so small that its
    forces underflow.
    """
    if any(rate is not None for rate in flow.decay):
        raise ValueError(
            "Weights in units are followed without decay. Pass decay=0.0, or a solver= (such as "
            "diffrax.Dopri8()), which follows them as they are, at moderate sizes."
        )
    if jnp.finfo(flow.dtype).eps > 1e-12:
        raise ValueError("Weights in units need float64: rest is told from motion at 1e-12.")
    names = list(dict.fromkeys(own.label for own in units.values()))
    labels = tuple(names.index(units[name].label) for name in flow.names)
    arrays = [np.asarray(c.initial, float) for c in flow.coordinates]
    shifts = [np.asarray(c.log_scale, float) for c in flow.coordinates]
    if members is None:
        arrays, shifts = [x[None] for x in arrays], [x[None] for x in shifts]
    shapes = [x.shape[1:] for x in arrays]
    counts = _counted(flow.names, shapes, units, labels, names)
    interfaces = _interfaces(flow.names, shapes, units)
    made_of = [
        Binding.of(shape, units[name], counts[k])
        for name, shape, k in zip(flow.names, shapes, labels, strict=True)
    ]
    rows = [x.reshape(len(x), -1) for x in arrays]
    directions, sizes = _united(rows, shifts, made_of, labels, counts, names)

    def array(x: np.ndarray) -> Array:
        return jnp.asarray(x if members is not None else x[0], flow.dtype)

    made = tuple(
        UnitCoordinates(array(d.reshape(x.shape)), array(sizes[k]), c.bases, binding)
        for c, binding, x, d, k in zip(
            flow.coordinates, made_of, arrays, directions, labels, strict=True
        )
    )
    fields: dict[str, Any] = {f.name: getattr(flow, f.name) for f in dataclasses.fields(flow)}
    one, begin = np.ones(len(start)), np.asarray(start, float)
    every = jnp.ones((sum(counts),) if members is None else (members, sum(counts)), bool)
    numbers = (array(x) for x in (one, PLAIN * one, FIRST * one, begin))
    fields |= {
        "coordinates": made,
        "clockwork": Clockwork(*numbers, moving=every, frozen=~every),
        "first_loss": array(one),
        "labels": labels,
        "counts": tuple(counts),
        "interfaces": tuple(interfaces.values()),
    }
    whole = UnitFlow(**fields)
    parts, fixed = divide(whole, members is not None, shared)
    clockwork, loss, forces, change = _wound(parts, fixed, members is not None)
    _check_forces(whole.names, forces)
    if interfaces:
        _check_interfaces(list(interfaces), np.asarray(change))
    return dataclasses.replace(whole, clockwork=clockwork, first_loss=loss)


def _counted(
    leaves: tuple[str, ...],
    shapes: list[tuple[int, ...]],
    units: Mapping[str, UnitAxes],
    labels: tuple[int, ...],
    names: list[str],
) -> list[int]:
    """How many units every label has."""
    counts = [0] * len(names)
    for name, shape, k in zip(leaves, shapes, labels, strict=True):
        widths = [shape[a] for a in units[name].axes]
        if units[name].interfaces:
            counts[k] = max(counts[k], *widths)
            continue
        count = math.prod(widths)
        if counts[k] not in (0, count):
            raise ValueError(
                f"Leaf {name!r} has {count} units of the label {names[k]!r}, and another leaf has "
                f"{counts[k]}. Leaves of one label are bound slice by slice: give them equal "
                "leading axes, or another label."
            )
        counts[k] = count
    return counts


def _interfaces(
    leaves: tuple[str, ...], shapes: list[tuple[int, ...]], units: Mapping[str, UnitAxes]
) -> dict[str, tuple[tuple[int, int], ...]]:
    """By interface the leaves and their axes that meet there."""
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for i, name in enumerate(leaves):
        for axis, interface in zip(units[name].axes, units[name].interfaces, strict=False):
            found[interface] = (*found.get(interface, ()), (i, axis))
    for interface, places in found.items():
        widths = {leaves[i]: shapes[i][a] for i, a in places}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"At the interface {interface!r} axes of several lengths meet: {widths}. What one "
                "matrix hands over is what the next one takes."
            )
    return found


def _united(
    rows: list[np.ndarray],
    shifts: list[np.ndarray],
    made_of: list[Binding],
    labels: tuple[int, ...],
    counts: list[int],
    names: list[str],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Directions (members, entries), of norm one in every unit, and log-sizes by label."""
    members = len(shifts[0])
    sizes = [np.full((members, n), -np.inf) for n in counts]
    with np.errstate(divide="ignore"):
        for x, shift, binding, k in zip(rows, shifts, made_of, labels, strict=True):
            logs = np.log(np.abs(x)) + shift[:, None]
            largest = np.max(np.where(binding.mine[None], logs[:, None], -np.inf), axis=-1)
            sizes[k] = np.maximum(sizes[k], largest)
    for size, name in zip(sizes, names, strict=True):
        if not np.all(np.isfinite(size)):
            at = int(np.argwhere(~np.isfinite(size))[0, 1])
            raise ValueError(
                f"Unit {at} of {name!r} is zero in all of its leaves: it has no direction. "
                "Start it at a small random value."
            )
    # squares of tiny entries would vanish
    scaled = [
        x * np.exp(shift[:, None] - sizes[k][:, binding.owner])
        for x, shift, binding, k in zip(rows, shifts, made_of, labels, strict=True)
    ]
    square = [np.zeros((members, n)) for n in counts]
    for x, binding, k in zip(scaled, made_of, labels, strict=True):
        square[k] += x**2 @ binding.mine.T
    made = [
        x / np.sqrt(square[k][:, binding.owner])
        for x, binding, k in zip(scaled, made_of, labels, strict=True)
    ]
    return made, [s + 0.5 * np.log(q) for s, q in zip(sizes, square, strict=True)]


@eqx.filter_jit
def _wound(
    parts: Any, fixed: Flow, batched: bool
) -> tuple[Clockwork, Array, dict[str, Array], Array]:
    """The clock of the start, the loss there, the largest force on every leaf, and how much the
    loss of weights of order one changes when what is handed over at each interface is turned.
    """

    def one(parts):
        flow: Any = united(parts, fixed)
        state, now = flow.start(), flow.clockwork
        # twice, the second time in units in which the slowest are felt
        rough, _ = flow.look(state, now.k0)
        scale = jnp.maximum(jnp.max(rough), SLOWEST)
        speed, rest = flow.look(state, scale)
        moving, frozen = flow.sets(state, rest, now)
        k0 = jnp.maximum(scale * rate_of(speed, moving), SLOWEST)
        clockwork = dataclasses.replace(now, k0=k0, moving=moving, frozen=frozen)
        loss, forces = flow.forces(flow.weights(state))
        largest = {name: jnp.max(jnp.abs(g)) for name, g in forces.items()}
        return clockwork, loss, largest, turning(flow)

    return jax.vmap(one)(parts) if batched else one(parts)


def _check_interfaces(names: list[str], change: np.ndarray) -> None:
    worst = np.max(np.atleast_2d(change), axis=0)
    if not np.all(worst < SAME):
        k = int(np.argmax(np.where(np.isnan(worst), np.inf, worst)))
        raise ValueError(
            f"The loss changes by {worst[k]:.2g} of itself when what is handed over at the "
            f"interface {names[k]!r} is turned (W → R W before it, W → W Rᵀ behind it). An "
            "interface is where what one matrix gives is what the next one takes, with nothing in "
            "between; name both of its ends, and only such axes."
        )


def _check_forces(names: tuple[str, ...], forces: dict[str, Array]) -> None:
    limits = np.finfo(float)
    floor = float(limits.tiny / limits.eps)
    sizes = np.atleast_2d(np.stack([np.asarray(forces[name]) for name in names], axis=-1))
    low = (sizes > 0.0) & (sizes < floor)
    low |= np.all(sizes == 0.0, axis=1, keepdims=True)
    if low.any():
        i, k = np.argwhere(low)[0]
        raise ValueError(
            f"The force on {names[k]!r} is {sizes[i, k]:g} at the start, below {floor:.0e}: either "
            "the start is at rest, or the product of the other factors underflows, as three "
            "factors of size ε do below ε = 1e-146 and four below 1e-97. Start elsewhere, or at a "
            "larger ε."
        )
