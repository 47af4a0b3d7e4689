"""Everything a run offers, on every kind of leaf and on two of a user's own."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp

import gflow
import theory

TARGET = np.array([[1.0, 0.2], [0.7, 0.6]])
LOG_ALPHA = -4.0


class Cubed(gflow.Parameter):
    """A leaf of a user: the weight is u³."""

    u: jax.Array

    @property
    def value(self):
        return self.u**3


class Growth(gflow.coordinates.Coordinates):
    """x = log w of a positive weight w, w' = g − λw."""

    x: jax.Array

    def start(self):
        return self.x.ravel()

    def value(self, state):
        return jnp.exp(state.reshape(self.x.shape))

    def velocity(self, state, force, decay):
        return jnp.exp(-state) * force.ravel() - decay


class Positive(gflow.Trainable):
    """A leaf of a user with coordinates of its own: w > 0, integrated as its logarithm."""

    value: jax.Array

    def coordinates(self, decays):
        return Growth(jnp.log(self.value))

    def at_record(self, record, time):
        return Positive(jnp.asarray(record["value"]))


def hadamard():
    return gflow.Hadamard.small((2, 2), log_alpha=LOG_ALPHA, key=jax.random.key(0))


def factored():
    return gflow.Factored.small((2, 2), 2, log_alpha=LOG_ALPHA, key=jax.random.key(1))


def symmetric():
    return gflow.Symmetric.small((2, 2), 2, log_alpha=LOG_ALPHA, key=jax.random.key(2))


SOME = np.array([[0.3, 0.1], [0.2, 0.4]])
KINDS = {
    "hadamard": hadamard,
    "factored": factored,
    "symmetric": symmetric,
    "product": lambda: gflow.Product(SOME, SOME.T, np.eye(2)),
    "scaled": lambda: gflow.Scaled(SOME, LOG_ALPHA),
    "array": lambda: jnp.asarray(SOME),
    "plain hadamard": lambda: gflow.to_factors(hadamard()),
    "plain factored": lambda: gflow.to_factors(factored()),
    "plain symmetric": lambda: gflow.to_factors(symmetric()),
    "cubed": lambda: Cubed(jnp.asarray(SOME)),
    "positive": lambda: Positive(jnp.asarray(SOME)),
}
OWN = {"array", "cubed", "positive"}


def weight(model):
    return getattr(model["w"], "value", model["w"])


def loss(model):
    return 0.5 * jnp.sum((weight(model) - jnp.asarray(TARGET)) ** 2)


SETTINGS = {"log_alpha": LOG_ALPHA, "error_bars": False, "solver": diffrax.Tsit5(), "rtol": 1e-7}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run(kind):
    return gflow.simulate({"w": KINDS[kind]()}, loss, t1=3.0, **SETTINGS)


def test_a_run_continues_from_its_end(kind, run):
    half = gflow.simulate({"w": KINDS[kind]()}, loss, t1=1.5, **SETTINGS)
    rest = gflow.simulate(half.final, loss, t1=3.0, **SETTINGS)
    assert rest.t[0] == 1.5
    np.testing.assert_allclose(weight(rest.final), weight(run.final), rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(weight(run.model(t=1.5)), weight(half.final), rtol=2e-6, atol=1e-9)
    assert run.loss[-1] < run.loss[0]


def test_a_batch_is_its_runs(kind, run):
    one = KINDS[kind]()
    stack = jax.tree.map(lambda *x: jnp.stack(x), one, one)
    batch = gflow.simulate_batch({"w": stack}, loss, in_axes=(0, None), t1=3.0, **SETTINGS)
    for member in batch:
        np.testing.assert_allclose(weight(member.final), weight(run.final), rtol=2e-6, atol=1e-9)


def test_a_file_gives_it_back(run, tmp_path):
    run.save(tmp_path / "run.nc")
    loaded = gflow.Trajectory.load(tmp_path / "run.nc", like=run.like)
    assert eqx.tree_equal(loaded.final, run.final)
    for mine, other in zip(loaded.stages(), run.stages(), strict=True):
        assert (mine.t, mine.label) == (other.t, other.label)
    np.testing.assert_array_equal(loaded.leaves["w"].log_modes(), run.leaves["w"].log_modes())


def test_every_plot_takes_it(run):
    for plot in (gflow.plot.loss, gflow.plot.weights, gflow.plot.ranks):
        axes = plot(run) if plot is gflow.plot.loss else plot(run, "w")
        assert axes.lines
        plt.close(axes.figure)


def test_optimisers_train_it(kind):
    model = gflow.to_factors({"w": KINDS[kind]()})
    run = gflow.descend(model, loss, optimizer=optax.sgd(0.01), steps=3)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    for _ in range(3):
        gradient = jax.grad(lambda x: loss(eqx.combine(x, rest)))(arrays)
        arrays = jax.tree.map(lambda x, g: x - 0.01 * g, arrays, gradient)
    np.testing.assert_allclose(weight(run.final), weight(eqx.combine(arrays, rest)), rtol=1e-12)


def test_the_limit_algorithm_predicts_it_or_says_why(kind):
    model = {"w": KINDS[kind]()}
    if kind in ("hadamard", "factored", "symmetric"):
        assert theory.gradual_rank.predict(model, loss).stages
    else:
        with pytest.raises(ValueError, match=r"needs Hadamard or Factored leaves; \['w'\]"):
            theory.gradual_rank.predict(model, loss, log_alpha=LOG_ALPHA)


RIGHT_HAND_SIDES = {
    "array": (lambda w: TARGET.ravel() - w, SOME, lambda w: w),
    "positive": (lambda w: TARGET.ravel() - w, SOME, lambda w: w),
    "cubed": (lambda u: 3 * u**2 * (TARGET.ravel() - u**3), SOME, lambda u: u**3),
}


def test_leaves_of_a_user_follow_their_own_equation(kind, run):
    if kind not in OWN:
        return
    f, start, value = RIGHT_HAND_SIDES[kind]
    exact = solve_ivp(lambda t, y: f(y), (0, 3.0), start.ravel(), rtol=1e-11, atol=1e-13).y[:, -1]
    np.testing.assert_allclose(np.ravel(weight(run.final)), value(exact), rtol=1e-6, atol=1e-8)


def test_decay_acts_on_what_the_user_holds():
    run = gflow.simulate({"w": Cubed(jnp.asarray(SOME))}, loss, t1=3.0, decay=0.3, **SETTINGS)

    def f(t, u):
        return 3 * u**2 * (TARGET.ravel() - u**3) - 0.3 * u

    exact = solve_ivp(f, (0, 3.0), SOME.ravel(), rtol=1e-11, atol=1e-13).y[:, -1]
    np.testing.assert_allclose(np.ravel(run.final["w"].u), exact, rtol=1e-6)


def test_a_chart_that_ends_before_the_flow_ends_the_run():
    """w' = −1 − w takes w through zero at ln(1 + w₀), where its logarithm has an end."""
    start = np.array([0.5, 2.0])
    run = gflow.simulate(
        {"w": Positive(jnp.asarray(start))}, lambda m: 0.5 * jnp.sum((m["w"].value + 1.0) ** 2),
        t1=3.0, **SETTINGS,
    )  # fmt: skip
    assert run.status is gflow.Status.step_underflow
    assert run.t[-1] == pytest.approx(np.log(1.5), rel=1e-5)


class Waiting(Growth):
    """Coordinates of a user that say more of themselves: logarithms, and a longest step."""

    logarithmic = True

    def horizon(self, state, velocity, atol):
        return jnp.asarray(0.25)


class Patient(Positive):
    def coordinates(self, decays):
        return Waiting(jnp.log(self.value))


def test_what_coordinates_of_a_user_say_of_themselves_is_heard():
    model = {"w": Patient(jnp.asarray(SOME))}
    run = gflow.simulate(model, loss, t1=3.0, error_bars=False, rtol=1e-4)
    assert np.max(np.diff(run.t)) <= 0.25 * (1 + 1e-12)
    assert run.method.startswith("Dopri8, and Rodas5P")  # logarithms are stiff, and not symmetric
    plain = gflow.simulate(
        {"w": Positive(jnp.asarray(SOME))}, loss, t1=3.0, error_bars=False, rtol=1e-8
    )
    assert plain.method.startswith("Dopri8")
