"""No program is out of date: a run is one of the problem in front of the user.

Least squares on orthonormal columns (XᵀX/n = 1) from tiny weights ends at θ = Xᵀy/n, and with
decay λ on the factors at sign(θ)·max(|θ| − λ, 0): the truth for whatever the loss reads.
"""

import functools
import logging
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
import theory
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

Q = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 2)))[0] * np.sqrt(40)
SETS = [(1.0, 0.5), (-0.4, 0.9), (0.3, -0.7)]
END = 4.0  # the slowest of the three sets switches at τ = 1/0.3
MODEL = DiagonalLinear(gflow.Hadamard.small(2, log_alpha=-50.0, key=jax.random.key(0)))
DATA = types.SimpleNamespace(x=Q, y=Q @ SETS[0], scale=1.0, rate=0.0)
run = functools.partial(gflow.simulate, error_bars=False)


def loss(model):
    return 0.5 * jnp.mean((jnp.asarray(DATA.x) @ model.weight.value - jnp.asarray(DATA.y)) ** 2)


def use(target):
    DATA.y = Q @ np.array(target)


def end(trajectory):
    return np.asarray(trajectory.final.weight.value)


@pytest.fixture
def compiled(caplog):
    """The names of the functions that are compiled, one each time."""
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        yield lambda: [r.args[0] for r in caplog.records if "Compiling" in str(r.msg)]


@pytest.mark.parametrize("target", SETS)
def test_a_run_a_prediction_and_their_comparison_are_of_the_data_of_the_moment(target):
    use(target)
    trajectory = run(MODEL, loss, tau1=5.0, observables={"norm": lambda m: jnp.sum(DATA.y) + 0.0})
    np.testing.assert_allclose(end(trajectory), target, rtol=0, atol=1e-8)
    np.testing.assert_allclose(trajectory.loss[0], 0.5 * np.sum(np.square(target)), rtol=1e-12)
    np.testing.assert_allclose(trajectory.observables["norm"], np.sum(DATA.y), rtol=1e-12)
    prediction = theory.gradual_rank.predict(MODEL, loss)
    # of α² e^{…}: the first winner is O(1) at τ = 1/max|θ|
    assert prediction.stages[0].tau == pytest.approx(1 / np.max(np.abs(target)), rel=1e-9)
    np.testing.assert_allclose(prediction.stages[-1].value["weight"], target, atol=1e-9)
    # what was predicted and simulated stays so when the data change
    stages = [s.t for s in trajectory.stages()]
    curve = prediction.at(-50.0).loss(np.array([1.5, 3.0]))
    use((0.2, 0.1))
    np.testing.assert_array_equal([s.t for s in trajectory.stages()], stages)
    np.testing.assert_array_equal(prediction.at(-50.0).loss(np.array([1.5, 3.0])), curve)
    middle = trajectory.record_at(0.5 * (trajectory.t[5] + trajectory.t[6]))
    value = middle["leaves"]["weight"]["value"]
    np.testing.assert_allclose(middle["loss"], 0.5 * np.sum((value - target) ** 2), rtol=1e-12)


def test_another_data_set_compiles_nothing_and_another_number_does(compiled):
    use(SETS[0])
    end(run(MODEL, loss, tau1=END))
    before = len(compiled())
    use(SETS[1])
    np.testing.assert_allclose(end(run(MODEL, loss, tau1=END)), SETS[1], rtol=0, atol=1e-3)
    again = types.FunctionType(loss.__code__, globals())  # the cell of a notebook, run again
    run(MODEL, again, tau1=END)
    assert compiled()[before:] == []
    run(MODEL, lambda model: 2.0 * loss(model), tau1=END)
    assert "run_round" in " ".join(compiled()[before:])


def test_data_edited_in_place_are_read_again_and_leave_earlier_runs_alone():
    y = Q @ np.array(SETS[0])
    own = SquaredLoss(Q, y)

    def bare(model):
        return 0.5 * jnp.mean((Q @ model.weight.value - y) ** 2)

    first = run(MODEL, bare, tau1=5.0)
    stages = [s.t for s in first.stages()]
    y[:] = Q @ np.array(SETS[2])
    np.testing.assert_array_equal([s.t for s in first.stages()], stages)
    np.testing.assert_allclose(end(first), SETS[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(end(run(MODEL, bare, tau1=5.0)), SETS[2], rtol=0, atol=1e-8)
    # a loss that was given its data keeps them
    np.testing.assert_allclose(end(run(MODEL, own, tau1=5.0)), SETS[0], rtol=0, atol=1e-8)


class Configured(eqx.Module):
    """Reads its scale from a dictionary that is shared, and a list that is a static field."""

    weight: gflow.Hadamard
    table: list = eqx.field(static=True)

    def __call__(self, x):
        return DATA.scale * self.table[0] * jnp.dot(x, self.weight.value)


def test_what_a_model_reads_from_outside_or_from_a_list_is_of_the_moment():
    table = [1.0]
    model, fit = Configured(MODEL.weight, table), SquaredLoss(Q, Q @ np.array(SETS[0]))
    for DATA.scale, table[0] in ((1.0, 1.0), (2.0, 1.0), (1.0, -2.0)):
        exact = np.array(SETS[0]) / (DATA.scale * table[0])
        np.testing.assert_allclose(end(run(model, fit, tau1=5.0)), exact, rtol=0, atol=1e-6)
    DATA.scale = 1.0


@pytest.mark.parametrize("level", [0.0, 0.2, 0.6])
def test_a_rate_of_decay_is_of_the_moment(level):
    DATA.rate = level
    fit = SquaredLoss(Q, Q @ np.array(SETS[0]))
    ended = end(run(MODEL, fit, tau1=6.0, decay=lambda t: DATA.rate + 0.0 * t))
    exact = np.maximum(np.array(SETS[0]) - level, 0.0)
    np.testing.assert_allclose(ended, exact, rtol=0, atol=1e-6)


SCALE = jnp.asarray([1.0, 1.0])


@jax.jit
def inside_jit(weight):
    return SCALE * weight


def scanned(carry, _):
    return carry + 0.5 * SCALE, None


@jax.custom_jvp
def straight(weight):
    return 1.0 * weight


@straight.defjvp
def _straight(primals, tangents):
    return straight(*primals), SCALE * tangents[0]


@pytest.mark.parametrize("kind", ["jit", "scan", "rule"])
def test_what_jax_has_traced_before_is_traced_again(kind, monkeypatch):
    # JAX itself keeps an inner function by its identity, with the array that it read first
    def objective(model):
        w = model.weight.value
        if kind == "jit":
            w = inside_jit(w)
        elif kind == "scan":  # two steps of half the scale
            w = jax.lax.scan(scanned, jnp.zeros(2), None, length=2)[0] * w
        else:
            w = straight(w)
        return 0.5 * jnp.sum((w - jnp.asarray(SETS[0])) ** 2)

    ends = []
    for scale in (1.0, 2.0):
        monkeypatch.setitem(globals(), "SCALE", scale * jnp.ones(2))
        ends.append(run(MODEL, objective, tau1=END))
    if kind == "rule":  # forces twice as large make the same flow in half the time
        one, two = ends[0].model(t=90.0), ends[1].model(t=45.0)
        assert one.weight.value[0] > 0.9
        np.testing.assert_allclose(one.weight.value, two.weight.value, rtol=1e-6)
    else:
        np.testing.assert_allclose(end(ends[0]), SETS[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(end(ends[1]), np.array(SETS[0]) / 2.0, rtol=0, atol=1e-6)


# the same functions for every data set: their programs are kept, and must read what is new
PLAIN = eqx.tree_at(lambda m: m.weight, MODEL, jnp.zeros(2))


def plain_loss(m):
    return 0.5 * jnp.mean((Q @ m.weight - DATA.y) ** 2)


def first_rest(m):
    return m.weight.value[0] - DATA.y[0]


def product_loss(m):
    return -abs(DATA.y @ Q[:, 0] / 40) * m["a"].value * m["b"].value * m["c"].value


@pytest.mark.parametrize(
    "target", [SETS[1], *(pytest.param(s, marks=pytest.mark.slow) for s in SETS[2:])]
)
def test_training_escape_and_batches_read_the_data_of_the_moment(target):
    use(target)
    trained = gflow.descend(MODEL, loss, learning_rate=0.5, steps=600)
    np.testing.assert_allclose(end(trained), target, rtol=0, atol=1e-8)
    plain = gflow.descend(PLAIN, plain_loss, optimizer=optax.sgd(0.5), steps=60)
    np.testing.assert_allclose(plain.final.weight, target, rtol=0, atol=1e-12)
    batch = gflow.simulate_batch(
        jax.tree.map(lambda x: jnp.stack([x, x]), MODEL), loss, tau1=5.0, error_bars=False,
        observables={"first": first_rest},
    )  # fmt: skip
    for member in batch:
        np.testing.assert_allclose(end(member), target, rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            member.observables["first"], member.observables["weight"][:, 0] - DATA.y[0], rtol=1e-12
        )
    # three factors of size ε on the loss −c·abc grow as ε/(1 − cεt)
    strength = abs(target[0])
    start = {name: gflow.Scaled(jnp.ones(()), -20.0) for name in "abc"}
    escaped = gflow.escape(start, product_loss, level=1e-3, error_bars=False)
    exact = (np.exp(20.0) - 1e3) / strength
    assert escaped.t[-1] == pytest.approx(exact, rel=1e-6)


def test_an_objective_of_two_minds_is_refused():
    fit, calls = SquaredLoss(Q, Q @ np.array(SETS[0])), [0]

    def counting(model):
        calls[0] += 1
        return calls[0] * fit(model)

    def noisy(model):
        return fit(model) + np.random.default_rng().normal()

    for objective in (counting, noisy):
        with pytest.raises(ValueError, match=r"returned -?[\d.e+]+ and .*random numbers.*counter"):
            run(MODEL, objective, tau1=END)
        with pytest.raises(ValueError, match="random numbers"):
            theory.gradual_rank.predict(MODEL, objective)
    with pytest.raises(ValueError, match=r"observables\['z'\].*random numbers"):
        run(MODEL, fit, tau1=END, observables={"z": lambda m: np.random.default_rng().normal()})
    with pytest.raises(ValueError, match=r"decay of 'weight'.*random numbers"):
        run(MODEL, fit, tau1=END, decay=lambda t: np.random.default_rng().uniform() + 0.0 * t)


# --- what cannot be called, traced or used ----------------------------------------------

FIT = SquaredLoss(Q, Q @ np.array(SETS[0]))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (3, "objective = 3 cannot be called"),
        (SquaredLoss, "is a class: pass an object"),
        (lambda m: 3, "returned 3, of <class 'int'>"),
        (lambda m: jnp.asarray(3), "returned int.* no gradient"),
        (lambda m: None, "returned None. Is a `return` missing"),
        (lambda m: (FIT(m), 1), "<class 'tuple'>. Return the loss alone"),
        (lambda m: m.weight.value, "scalar loss; it returned shape"),
        (lambda m: FIT(m).astype(jnp.float32), "float32.*allow_float32"),
        (lambda m: np.sum(np.asarray(m.weight.value)), "NumPy.*Use jax.numpy"),
        (lambda m: float(FIT(m)), "Python number.*Leave it a JAX array"),
        (lambda m: FIT(m) if m.weight.value[0] > 0 else 0.0, "jnp.where"),
        (lambda m: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda m: FIT(m) + m.weight.log_s, "only `.value` of a parameter"),
    ],
)
def test_an_objective_that_is_none_says_why(objective, message):
    with pytest.raises(ValueError, match=message):
        run(MODEL, objective, tau1=END)


@pytest.mark.parametrize(
    ("observables", "message"),
    [
        ([lambda m: 1.0], "has no names: pass a dictionary"),
        ({"z": 1.0}, r"observables\['z'\] = 1.0 is no function"),
        ({"z": lambda m: "a"}, r"observables\['z'\] returned 'a'"),
        ({"z": lambda m: {"a": 1.0}}, "an observable is a number or an array"),
        ({"z": lambda m: m.weight.u}, "a parameter has `.value`.*not `.u`"),
        ({"z": lambda m: [][0]}, r"observables\['z'\] raised IndexError"),
    ],
)
def test_an_observable_that_is_none_says_why(observables, message):
    with pytest.raises(ValueError, match=message):
        run(MODEL, FIT, tau1=END, observables=observables)


def test_rates_schedules_and_transformations_say_what_to_use_instead():
    with pytest.raises(ValueError, match=r"decay of 'weight' returned an array of shape \(2,\)"):
        run(MODEL, FIT, tau1=END, decay=lambda t: jnp.ones(2))
    with pytest.raises(ValueError, match=r"learning_rate returned .*one number"):
        gflow.descend(MODEL, FIT, learning_rate=lambda step: jnp.ones(2), steps=2)

    def last(scale):
        return run(MODEL, lambda m: scale * FIT(m), tau1=END).loss[-1]

    cases = ((jax.grad, 1.0), (jax.jit, 1.0), (jax.vmap, jnp.ones(2)))
    for transformation, argument in cases:
        with pytest.raises(ValueError, match=r"simulate_batch.*finite differences"):
            transformation(last)(argument)
