"""The lookout of a run of units: whether it is at rest, or has frozen what it should not have."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._svd import least_squares
from ..coordinates._record import LeafRecord
from ..flow._flow import Flow
from ._resting import Found
from ._round import Round
from ._status import Ended, Status
from ._units import PLAIN

#: Share of the largest curvature of frozen units below which one is none, and of those that are.
FLAT, KERNEL = 1e-10, 1e-8
#: Displacement of dormant units, in sizes of the largest one, and of live ones; their number.
ASIDE, BESIDE, DIRECTIONS = 1e-4, 1e-3, 32
#: Share of the growth that dormant units had at the start up to which they grow no more.
OVER = 1e-9
#: Share of a displacement beyond rounding by which frozen units are drawn away.
DRAWN = 1e-4
#: Share of the loss by which that at rest may differ from the one without what is not frozen.
THERE = 1e-14
#: Flow time up to which a run without an end is followed.
LATEST = 1e290

_HIDDEN = (
    "the units rest to 1e-12, but what they span has a way down that none of them follows: a "
    "dormant mode hidden in a live unit, below its rounding. A unit is one mode of the model; "
    "bind the parts of each mode to a unit of its own"
)


class Climbing:
    """Looks whether runs of units rest: dormant ones have nothing to grow by, live ones stay.

    A unit that is frozen is at rest to rounding. That it is no saddle in itself is looked at when
    all that have settled are frozen; that nothing is left to learn where a run without an end would
    rest.
    """

    #: Plateaus are left by dormant units; one unstable in itself is found here.
    plateaus = False
    #: A run that has met a condition may have frozen before what would have moved.
    afterwards = True

    def __init__(self, end: Float[np.ndarray, " members"] | None):
        self.end = end

    def begin(self, run: Any) -> None:
        """Before the first step."""
        members = len(run.time)
        self.rest = np.full(members, np.inf)
        self.frozen: list[Any] = [None] * members
        self.seen: list[np.ndarray] = [np.array(False)] * members
        self.waits = np.zeros(members, bool)

    def aim(self, run: Any) -> float:
        """Up to where the next round may go."""
        return np.inf

    def late(self, run: Any, i: int) -> Ended:
        """Why a run of units needs so many steps."""
        return Ended(
            Status.max_steps,
            "units are followed through every plateau in a number of steps like log(1/ε), so that "
            "something is left that does not come to rest: a minimum at infinity, a unit on its "
            "way through zero, or matrices that meet at an interface without a name (gflow.Scaled("
            "..., interfaces=)). Pass t1, a larger max_steps or rtol",
        )

    def stay(self, run: Any, i: int, column: int, found: Found, done: Round) -> None:
        """Member i rests from the last of its rows on, up to the end it was asked for.

        One more step goes there, in which nothing but the time moves.
        """
        assert self.end is not None
        main = run.recorder.rows(done.record, found.row, column)
        second = None
        if done.refined is not None:
            second = run.recorder.rows(done.refined, found.row, column)
        end, start = float(self.end[i]), float(main["elapsed"])
        stride = (end - start) * main["leaves"][run.flow(i).names[0]]["k0"]

        def moved(record: dict[str, Any] | None, lapse: float, elapsed: float) -> Any:
            if record is None:
                return None
            leaves = {
                name: LeafRecord(
                    {
                        **leaf.arrays,
                        "frozen": np.ones_like(leaf["frozen"]),
                        "floor": np.full_like(leaf["floor"], PLAIN),
                        "stride": np.asarray(stride),
                        "elapsed": np.full_like(leaf["elapsed"], elapsed),
                    },
                    leaf.chart,
                )
                for name, leaf in record["leaves"].items()
            }
            times = {"lapse": np.asarray(lapse), "elapsed": np.asarray(elapsed)}
            return record | times | {"leaves": leaves}

        for clock, *times in ((1.0, 0.0, start), (2.0, end - start, end)):
            run.time[i] = found.since + clock
            run.recorder.append(i, run.time[i], moved(main, *times), moved(second, *times))

    def look(
        self, run: Any, members: np.ndarray, going: np.ndarray, kept: np.ndarray, t: np.ndarray,
        done: Round,
    ) -> dict[int, Found]:  # fmt: skip
        """By column of the round: which of the members have ended, and how."""
        found = {}
        for j in np.flatnonzero(going):
            rows = np.flatnonzero(kept[:, j])
            one = self._ended(run, int(members[j]), int(j), rows, t, done)
            if one is not None:
                found[int(j)] = one
        return found

    def _ended(
        self, run: Any, i: int, column: int, rows: np.ndarray, t: np.ndarray, done: Round
    ) -> Found | None:
        flow = run.flow(i)
        leaves = run.recorder.rows(done.record["leaves"], rows, column)
        elapsed = run.recorder.rows(done.record["elapsed"], rows, column)
        frozen = _of_units(flow, leaves, "frozen")
        before = np.concatenate([self._frozen(i, frozen)[None], frozen[:-1]])
        self.frozen[i] = frozen[-1]
        # beside units that still come to rest frozen ones feel a force, and curve down along it
        quiet = np.all(_of_units(flow, leaves, "moving") | frozen, axis=1)
        for k in np.flatnonzero(quiet).tolist():
            if not np.any(frozen[k] & ~self.seen[i]):
                self.seen[i] = frozen[k]
                continue
            self.seen[i] = frozen[k]
            weights = _weights(flow, leaves, k)
            if _unstable(flow, weights, frozen[k]):
                return Found(int(rows[k]), Status.risen)
            if hidden(flow, weights, frozen[k]):
                run.cause[i] = _HIDDEN
                return Found(int(rows[k]), Status.saddle)
        # steps are long where all rests: one round may see it come to rest and go on for ever
        rest = self._at_rest(run, i, column, rows, t, done, leaves, frozen, before)
        late = np.flatnonzero(elapsed > LATEST)
        if rest is None and late.size and self.end is None:
            return Found(int(rows[late[0]]), Status.max_steps)
        return rest

    def _at_rest(
        self, run: Any, i: int, column: int, rows: np.ndarray, t: np.ndarray, done: Round,
        leaves: dict[str, Any], frozen: np.ndarray, before: np.ndarray,
    ) -> Found | None:  # fmt: skip
        """Where what is frozen rests and nothing else would grow."""
        flow = run.flow(i)
        # what is frozen stays as it is: whether others have something to grow by is asked once
        changed = np.flatnonzero(np.any(frozen != before, axis=1))
        if changed.size:
            self.waits[i] = False
        k = int(changed[-1]) if changed.size else len(rows) - 1
        if self.waits[i] or not frozen[k].any():
            return None
        loss = float(run.recorder.rows(done.record["loss"], rows[k], column))
        weights, without = polished(flow, _weights(flow, leaves, k), frozen[k])
        if abs(without - loss) > THERE * max(abs(float(flow.first_loss)), abs(loss)):
            return None
        self.waits[i] = grows(flow, weights, ~frozen[k])
        if self.waits[i]:
            return None
        if self.end is None:
            return Found(int(rows[k]), Status.converged)
        return Found(int(rows[k]), Status.reached, float(t[rows[k], column]))

    def _frozen(self, i: int, like: np.ndarray) -> np.ndarray:
        known = self.frozen[i]
        return np.zeros(like.shape[1], bool) if known is None else known


def _of_units(flow: Any, leaves: dict[str, Any], name: str) -> np.ndarray:
    """What is recorded of every unit, label by label: (rows, units)."""
    first = [flow.names[flow.labels.index(k)] for k in range(len(flow.counts))]
    return np.concatenate([np.asarray(leaves[n][name]) for n in first], axis=1)


def _weights(flow: Any, leaves: dict[str, Any], row: int) -> dict[str, np.ndarray]:
    """In the bases that they are recorded in."""
    found = {}
    for name, c in zip(flow.names, flow.coordinates, strict=True):
        direction = np.asarray(leaves[name]["direction"][row])
        sizes = np.exp(np.asarray(leaves[name]["log_size"][row]))[c.binding.owner]
        found[name] = (sizes * direction.ravel()).reshape(direction.shape)
    return found


def _owners(flow: Any) -> np.ndarray:
    """The unit of every entry of the weights, leaf by leaf."""
    return flow.owner[: -flow.units]


def _flat(flow: Flow, weights: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([weights[name].ravel() for name in flow.names])


@eqx.filter_jit
def _curvature(flow: Flow, flat: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The Hessian of the loss in the weights."""
    return jax.hessian(lambda w: flow.loss(_shaped(flow, w)))(flat)


@eqx.filter_jit
def _slope(flow: Flow, flat: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """The loss and its gradient."""
    return jax.value_and_grad(lambda w: flow.loss(_shaped(flow, w)))(flat)


@eqx.filter_jit
def _outward(flow: Flow, flat: Float[Array, " n"], steps: Float[Array, "m n"]) -> Array:
    """⟨−∇L(w + d), d⟩/|d|² of displacements d."""

    def rate(d):
        return -jnp.vdot(_slope(flow, flat + d)[1], d) / jnp.vdot(d, d)

    return jax.lax.map(rate, steps)


def _shaped(flow: Flow, flat: Any) -> dict[str, Any]:
    cuts = np.cumsum([c.direction.size for c in flow.coordinates])[:-1].tolist()
    split = np.split if isinstance(flat, np.ndarray) else jnp.split
    parts = zip(flow.names, flow.coordinates, split(flat, cuts), strict=True)
    return {name: x.reshape(c.direction.shape) for name, c, x in parts}


def _unstable(flow: Flow, weights: dict[str, np.ndarray], frozen: np.ndarray) -> bool:
    """Whether the loss curves down in the frozen units, among themselves."""
    own = frozen[_owners(flow)]
    whole = np.asarray(_curvature(flow, jnp.asarray(_flat(flow, weights))))
    values = np.linalg.eigvalsh(whole[np.ix_(own, own)])
    return bool(values[0] < -FLAT * np.max(np.abs(values)))


def polished(
    flow: Flow, weights: dict[str, np.ndarray], frozen: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """Frozen units where they would rest without the others, by Newton's method; the loss there.

    They stay where they are at 1e-12, and what is left to others to grow by may be less.
    """
    own = frozen[_owners(flow)]
    flat = np.where(own, _flat(flow, weights), 0.0)
    for _ in range(2):
        point = jnp.asarray(flat)
        whole = np.asarray(_curvature(flow, point))[np.ix_(own, own)]
        step = least_squares(whole, np.asarray(_slope(flow, point)[1])[own], rcond=KERNEL)
        flat[own] -= step
    return _shaped(flow, flat), float(_slope(flow, jnp.asarray(flat))[0])


def grows(flow: Any, weights: dict[str, np.ndarray], dormant: np.ndarray) -> bool:
    """Whether dormant units would grow, were they larger and turned elsewhere.

    At zero in `weights`, they are given random directions and sizes of `ASIDE` and less of the
    largest unit; the rate at which these grow together is compared with that without live units.
    """
    if not dormant.any():
        return False
    owners, flat, rng = _owners(flow), _flat(flow, weights), np.random.default_rng(0)
    # what joins them to live ones turns these, and is drawn back
    own = flow.among(dormant)
    top = np.sqrt(np.max(np.bincount(owners, flat**2)))
    sizes = ASIDE * top * 10.0 ** rng.uniform(-1.0, 0.0, (DIRECTIONS, len(dormant)))
    aside = sizes[:, owners] * own * rng.normal(size=(DIRECTIONS, len(flat)))
    aside /= np.sqrt(np.mean(own * np.bincount(owners)[owners]))
    now = np.asarray(_outward(flow, jnp.asarray(flat), jnp.asarray(aside)))
    alone = np.asarray(_outward(flow, jnp.zeros(len(flat)), jnp.asarray(aside)))
    return bool(np.max(now) > OVER * np.max(np.abs(alone)))


def hidden(flow: Flow, weights: dict[str, np.ndarray], frozen: np.ndarray) -> bool:
    """Whether frozen units have a way down in directions in which the loss does not curve.

    The loss is constant along (v, k, q) → (av, bk, q/ab), and falls like the product of what a live
    array hides: both are directions without curvature.
    """
    own = frozen[_owners(flow)]
    if not own.any():
        return False
    flat, rng = _flat(flow, weights), np.random.default_rng(0)
    whole = np.asarray(_curvature(flow, jnp.asarray(flat)))
    values, vectors = np.linalg.eigh(whole[np.ix_(own, own)])
    top = np.max(np.abs(values))
    kernel = vectors[:, np.abs(values) < KERNEL * top]
    if not kernel.shape[1]:
        return False
    aside = rng.normal(size=(DIRECTIONS, kernel.shape[1])) @ kernel.T
    size = BESIDE * np.linalg.norm(flat)
    aside *= size / np.linalg.norm(aside, axis=1, keepdims=True)
    steps = np.zeros((DIRECTIONS, len(flat)))
    steps[:, own] = aside
    away = np.asarray(_outward(flow, jnp.asarray(flat), jnp.asarray(steps)))
    return bool(np.max(away) > DRAWN * BESIDE * top)
