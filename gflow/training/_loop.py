"""The loop over steps: a compiled call makes some records, and between calls it may stop."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .._progress import Bar
from ..flow._flow import Flow
from ..integrate._round import record_state
from ..integrate._status import Status
from ._rules import Carry, Rule
from ._samples import Batches

#: Records that one call of the compiled loop makes.
RECORDS = 64

#: What a rule carries, and the sum of learning rates.
Place = tuple[Carry, Float[Array, ""]]


class Steps(eqx.Module):
    """All that a step depends on but where the run stands."""

    rule: Rule
    flow: Flow
    batches: Batches | None
    observables: dict[str, Any]

    def time(self, place: Place, step: Int[Array, ""]) -> Float[Array, ""]:
        return self.rule.axis.time(place[1], step)

    def taken(self, place: Place, step: Int[Array, ""]) -> tuple[Place, Float[Array, ""]]:
        """The place after step number `step`, and the loss before it."""
        carry, total = place
        flow = self.flow if self.batches is None else self.batches(self.flow, step)
        carry, loss = self.rule.step(flow, carry, self.time(place, step), step)
        return (carry, self.rule.axis.after(total, step, self.rule.told(carry))), loss

    def record(self, place: Place, step: Int[Array, ""]) -> dict[str, Any]:
        state = self.rule.state(place[0])
        return record_state(self.flow, self.observables, self.time(place, step), state)


@eqx.filter_jit
def _advance(
    steps: Steps,
    place: Place,
    made: Int[Array, ""],
    save_every: Int[Array, ""],
    end: Int[Array, ""],
) -> tuple[Place, dict[str, Any]]:
    """Train until RECORDS records are made, or `end` steps, or the loss is not finite.

    Records past the end are empty.
    """

    def step(inside):
        i, _, place = inside
        place, loss = steps.taken(place, i)
        return i + 1, jnp.isfinite(loss), place

    def save(inside, _):
        before, stop = inside[0], jnp.minimum(inside[0] + save_every, end)
        inside = lax.while_loop(lambda x: (x[0] < stop) & x[1], step, inside)
        i, finite, place = inside

        def recorded():
            return steps.record(place, i)

        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(recorded))
        record = lax.cond(i > before, recorded, lambda: empty)
        finite = finite & jnp.isfinite(record["loss"])
        return inside, {"step": i, "t": steps.time(place, i), "finite": finite, "record": record}

    inside, saved = lax.scan(save, (made, jnp.array(True), place), length=RECORDS)
    return inside[2], saved


@eqx.filter_jit
def _first(steps: Steps, place: Place, made: Int[Array, ""]) -> tuple[Array, dict[str, Any]]:
    return steps.time(place, made), steps.record(place, made)


def _to_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


class Run:
    """A run under way: where it stands, what is recorded, and how it ended.

    It starts after `made` steps at `place` and ends after `steps` more. When the loss leaves the
    floats it goes back to the last step at which it was finite.
    """

    def __init__(self, steps: Steps, place: Place, made: int, count: int, save_every: int):
        self.steps, self.place = steps, place
        self.first, self.made, self.end = made, made, made + count
        self.save_every = save_every
        self.status = Status.stepped
        t, record = _to_host(_first(steps, place, jnp.asarray(made)))
        self.times = [t[None]]
        self.records = [jax.tree.map(lambda x: x[None], record)]

    def go(self, progress: bool) -> None:
        with Bar(progress, self.end, "steps", self.made) as bar:
            try:
                while self.made < self.end and self.status is Status.stepped:
                    self._advance()
                    bar.to(self.made, loss=f"{self.records[-1]['loss'][-1]:.6g}")
            except KeyboardInterrupt:
                self.status = Status.interrupted

    def _advance(self) -> None:
        place, saved = self._called(self.end)
        if saved["finite"].all():
            return self._keep(place, saved)
        self.status = Status.diverged
        # a step finds the loss before it not finite, a record that after it
        bad = int(np.argmin(saved["finite"]))
        found = int(saved["step"][bad])
        before = int(saved["step"][bad - 1]) if bad else self.made
        for last in (found - 1, found - 2, before):
            if last > self.made:
                place, saved = self._called(last)
                if saved["finite"].all():
                    return self._keep(place, saved)

    def _called(self, end: int) -> tuple[Place, dict[str, Any]]:
        numbers = (jnp.asarray(n) for n in (self.made, self.save_every, end))
        place, saved = _advance(self.steps, self.place, *numbers)
        return place, _to_host(saved)

    def _keep(self, place: Place, saved: dict[str, Any]) -> None:
        count = int(np.sum(np.diff(saved["step"], prepend=self.made) > 0))
        self.place, self.made = place, int(saved["step"][-1])
        self.times.append(saved["t"][:count])
        self.records.append(jax.tree.map(lambda x: x[:count], saved["record"]))
