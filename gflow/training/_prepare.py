"""From the arguments of a run of discrete steps to all that it needs."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ..flow._build import (
    build_flow,
    check_leaf,
)
from ..flow._decay import Decay
from ..flow._flow import (
    Flow,
    Objective,
)
from ..flow._prepare import elapsed_time
from ..parameters._base import to_factors, trained_leaves
from ..programs._closure import Traced
from ._discrete import described, discrete
from ._loop import Place, Steps
from ._memory import Training
from ._optimizers import name_of, rate_of, told_rate
from ._rates import Axis, Rate, check_rates, common, leaf_rates, make_rate
from ._rules import GradientDescent, Optax, Rule, optax_programs
from ._samples import Batch, Batches, make_batches


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a run, whatever the rule."""

    model: PyTree
    objective: Objective
    steps: int
    batch: Batch | None
    key: Any
    resume: Training | None
    checks: dict[str, bool]

    @property
    def first(self) -> int:
        """Steps made before."""
        return 0 if self.resume is None else self.resume.made

    def axis(self, rate: Rate | None, told: bool, dtype: Any) -> Axis:
        """The time axis, where the run before has left it."""
        before, known = self.resume, told or rate is not None
        value = np.nan if rate is None else rate.number
        if before is None:
            origin, since = elapsed_time(self.model) if known else 0.0, 0
        elif value == before.rate:
            origin, since = before.origin, before.since
        elif known:
            origin, since = before.time if before.timed else 0.0, before.made
        else:
            origin, since = float(before.made), before.made
        return Axis(jnp.asarray(origin, dtype), jnp.asarray(since), rate, told)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that can begin: the rule, what it moves, and where it stands."""

    model: PyTree
    rule: Rule
    flow: Flow
    batches: Batches | None
    place: Place
    #: How it will be computed, in words.
    method: str

    @classmethod
    def of(
        cls, request: Request, model: PyTree, rule: Rule, flow: Flow, batches: Any, method: str
    ) -> "Prepared":
        place = rule.start(flow), rule.axis.origin
        if request.resume is not None:
            place = request.resume.place(place, method)
        return cls(model, rule, flow, batches, place, method)

    def steps(self, observables: dict[str, Traced]) -> Steps:
        return Steps(self.rule, self.flow, self.batches, observables)

    def handed_on(self, place: Place, made: int, time: float) -> Training:
        """What a run hands on that stands at `place`."""
        axis, rate = self.rule.axis, self.rule.axis.rate
        return Training.of(
            (place[0], jnp.asarray(time, place[1].dtype)),
            what=self.method,
            made=made,
            time=time,
            timed=axis.known,
            rate=np.nan if rate is None else rate.number,
            origin=float(axis.origin),
            since=int(axis.since),
        )


def gradient_descent(request: Request, learning_rate: Any, decay: Decay) -> Prepared:
    """**Raises:** ValueError for rates that are none, and leaves that have no discrete step."""
    model = request.model
    flow = build_flow(model, request.objective, decay=decay, **request.checks)
    flow = discrete(flow, model)
    rates = leaf_rates(learning_rate, flow.names, flow.dtype)
    for name, rate in zip(flow.names, rates, strict=True):
        check_rates(rate, f"learning_rate of {name!r}", request.first, request.steps)
    rate = common(rates)
    if rate is None and any(isinstance(d, Traced) for d in flow.decay):
        raise ValueError(
            "decay is a function of time, and the leaves have learning rates of their own, so that "
            "there is no one time. Give one learning rate, or numbers as decay."
        )
    rule = GradientDescent(request.axis(rate, False, flow.dtype), rates)
    batches = make_batches(flow, model, request.objective, request.batch, request.key)
    kind = "gradient descent" if batches is None else f"stochastic {_descent(batches)}"
    told = ", learning rates " + ", ".join(
        f"{name} {rate}" for name, rate in zip(flow.names, rates, strict=True)
    )
    if rate is not None:
        told = f", learning rate {rate}"
    return Prepared.of(
        request, model, rule, flow, batches, f"{kind}{told}, in {described(flow)} coordinates"
    )


def optax_rule(request: Request, optimizer: Any, learning_rate: Any) -> Prepared:
    """**Raises:** ValueError for a model without plain factors, and for two different rates."""
    for name, leaf in trained_leaves(request.model).items():
        check_leaf(name, leaf, **request.checks)
    model = to_factors(request.model)
    flow = build_flow(model, request.objective, **request.checks)
    batches = make_batches(flow, model, request.objective, request.batch, request.key)
    drawn = flow
    if batches is not None:
        drawn = eqx.filter_eval_shape(batches, flow, jnp.asarray(0))
    begin, update = optax_programs(optimizer, model, drawn)
    rule = Optax(request.axis(None, False, flow.dtype), model, begin, update)
    told = told_rate(rule.start(flow)[1])
    rate = _rate(optimizer, told, learning_rate, flow.dtype)
    if rate is not None:
        check_rates(rate, "learning_rate", request.first, request.steps)
    axis = request.axis(rate, told is not None, flow.dtype)
    rule = eqx.tree_at(lambda r: r.axis, rule, axis)
    how = "" if batches is None else f", {batches.described}"
    said = "" if rate is None else f", learning rate {rate}"
    return Prepared.of(
        request, model, rule, flow, batches,
        f"Optax {name_of(optimizer)}{how}{said}, on plain factors",
    )  # fmt: skip


def _descent(batches: Batches) -> str:
    return f"gradient descent, {batches.described}"


def _rate(
    optimizer: optax.GradientTransformation, told: Array | None, given: Any, dtype: Any
) -> Rate | None:
    """The rate of the time axis, unless the optimiser tells it with every step."""
    seen = None if told is not None else rate_of(optimizer)
    if seen is not None:
        seen = make_rate(seen, "the rate in the optimizer", dtype, counter=Optax.counter)
    if given is None:
        return seen
    rate = make_rate(given, "learning_rate", dtype, counter=Optax.counter)
    zero = jnp.zeros((), Optax.counter)
    own = told if seen is None else seen(zero)
    if own is not None and not np.isclose(float(own), float(rate(zero)), rtol=1e-6):
        raise ValueError(
            f"learning_rate is {float(rate(zero)):g} at the first step, and the optimizer has "
            f"{float(own):g} in it. Leave learning_rate= out: t is then the sum of the optimizer's "
            "own rates."
        )
    return None if told is not None else seen or rate
