"""Discrete training: gradient descent against 200 digits, SGD, and Optax."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_data
from jax import lax
from kinds import Linear, Mixed

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

GD = reference_data.load("gd")
RATE = float(GD["learning_rate"])
X = jnp.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
Y = jnp.array([1.0, 0.0])
HALF_SUM = SquaredLoss(X, Y, "half_sum")


def small(log_alpha=-10.0, seed=0, d=4):
    return DiagonalLinear(gflow.Hadamard.small(d, log_alpha=log_alpha, key=jax.random.key(seed)))


def mixed():
    u, v = jnp.array([0.3, -0.1, 0.2, 0.05]), jnp.array([0.1, 0.2, 0.15, -0.3])
    return Mixed(
        gflow.Hadamard(u, v, log_alpha=-2.0),
        gflow.to_factors(gflow.Hadamard(v, 2.0 * u)),
        gflow.Scaled(jnp.array([1.0, 2.0, -1.0, 0.5]), log_scale=-3.0),
        jnp.array([0.1, 0.0, -0.1, 0.2]),
        gflow.Frozen(jnp.array([1.0, 2.0, 0.5, -1.0])),
    )


# --- gradient descent -----------------------------------------------------------------


def gd_problem():
    u, v = (jnp.array(GD[k], float) for k in ("u0", "v0"))
    objective = SquaredLoss(
        jnp.array(GD["inputs"], float), jnp.array(GD["targets"], float), "half_sum"
    )
    return DiagonalLinear(gflow.Hadamard(u, v)), objective


@pytest.mark.parametrize("run", GD["runs"], ids=lambda run: f"decay {run['decay']}")
def test_gradient_descent_agrees_with_200_digits(run):
    model, objective = gd_problem()
    assert run["steps_below_minus_one"] > 10
    traj = gflow.descend(
        model, objective, learning_rate=RATE, decay=float(run["decay"]), steps=960, save_every=1
    )
    at = [row["step"] for row in run["rows"]]
    leaf = traj.leaves["weight"]

    def reference(name):
        return np.array([row[name] for row in run["rows"]], float)

    # 960 steps of a few roundings each, of numbers up to 200.
    for name in ("log_s", "log_d"):
        np.testing.assert_allclose(leaf[name][at], reference(name), rtol=0, atol=1e-11)
    np.testing.assert_allclose(leaf["value"][at], reference("theta"), rtol=1e-10)
    for name in ("sign_s", "sign_d"):
        np.testing.assert_array_equal(leaf[name][at], reference(name))
        assert len(np.unique(leaf[name][:, 1:])) == 2

    final = traj.final.weight
    np.testing.assert_allclose(final.log_s, reference("log_s")[-1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(final.log_d, reference("log_d")[-1], rtol=0, atol=1e-11)
    np.testing.assert_array_equal(final.sign_s, reference("sign_s")[-1])
    np.testing.assert_array_equal(final.sign_d, reference("sign_d")[-1])
    np.testing.assert_allclose(final.value, reference("theta")[-1], rtol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.03125])
def test_each_step_multiplies_the_balance_by_what_the_identity_says(decay):
    model, objective = gd_problem()
    traj = gflow.descend(model, objective, learning_rate=RATE, decay=decay, steps=300, save_every=1)
    leaf = traj.leaves["weight"]
    factor = (1 - RATE * decay) ** 2 - (RATE * leaf["force"][:-1]) ** 2
    change = np.diff(leaf["log_s"] + leaf["log_d"], axis=0)
    np.testing.assert_allclose(change, np.log(np.abs(factor)), rtol=0, atol=1e-12)
    sign = leaf["sign_s"].astype(int) * leaf["sign_d"]
    np.testing.assert_array_equal(sign[1:] * sign[:-1], np.sign(factor))
    assert (factor < 0).any()


def test_a_dormant_weight_keeps_every_digit_at_alpha_10_to_minus_a_million():
    log_alpha, rate, steps = -1e6 * math.log(10), 1e-3, 20_000
    model = small(log_alpha)
    traj = gflow.descend(model, HALF_SUM, learning_rate=rate, steps=steps)
    force = traj.leaves["weight"]["force"][0]
    np.testing.assert_array_equal(traj.leaves["weight"]["force"][-1], force)
    expected = model.weight.log_s + steps * np.log1p(rate * force)
    # Two roundings of numbers of 2e6; plain summation is off by 20 000 of them.
    np.testing.assert_allclose(
        traj.leaves["weight"]["log_s"][-1], expected, rtol=0, atol=2 * np.spacing(-log_alpha)
    )


@pytest.mark.parametrize("decay", [0.0, 0.1, lambda t: 0.1 / (1.0 + t)])
def test_leaves_of_every_kind_against_a_loop_in_numpy(decay):
    rate, steps = 0.05, 200
    model = mixed()
    traj = gflow.descend(model, HALF_SUM, learning_rate=rate, decay=decay, steps=steps)

    u, v = np.array([0.3, -0.1, 0.2, 0.05]), np.array([0.1, 0.2, 0.15, -0.3])
    (a, b), (c, d) = (u, v), (v, 2 * u)
    scaled, plain = math.exp(-3.0) * np.array([1.0, 2.0, -1.0, 0.5]), np.array([0.1, 0, -0.1, 0.2])
    gain = np.array([1.0, 2.0, 0.5, -1.0])
    inputs, targets = np.asarray(X), np.asarray(Y)
    for step in range(steps):
        g = inputs.T @ (targets - inputs @ (a * b + c * d + scaled + gain * plain))
        keep = 1.0 - rate * (decay(rate * step) if callable(decay) else decay)
        a, b = keep * a + rate * g * b, keep * b + rate * g * a
        c, d = keep * c + rate * g * d, keep * d + rate * g * c
        scaled = keep * scaled + rate * g
        plain = keep * plain + rate * g * gain
    final = traj.final
    for value, expected in [
        (final.hadamard.value, a * b), (final.factors.u, c), (final.factors.v, d),
        (final.scaled.value, scaled), (final.plain, plain), (final.gain.value, gain),
    ]:  # fmt: skip
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-13)


def test_gradient_descent_approaches_the_flow_to_first_order():
    model, end = small(-4.0), 24.0
    exact = gflow.simulate(model, HALF_SUM, t1=end, rtol=1e-11, error_bars=False)
    exact = exact.observables["weight"][-1]
    error = []
    for steps in (1200, 2400, 4800):
        run = gflow.descend(model, HALF_SUM, learning_rate=end / steps, steps=steps)
        assert run.t[-1] == pytest.approx(end, rel=1e-14)
        error.append(np.max(np.abs(run.observables["weight"][-1] - exact)))
    order = np.log2(np.array(error[:-1]) / error[1:])
    np.testing.assert_allclose(order, 1.0, atol=0.2)


def test_stages_of_descent_are_those_of_the_flow():
    model = small(-18.0)
    flow = gflow.simulate(model, HALF_SUM, tau1=9.0, error_bars=False).stages()
    descent = gflow.descend(model, HALF_SUM, learning_rate=0.01, steps=16_200).stages()
    assert [s.activated for s in descent] == [s.activated for s in flow]
    assert len(flow) >= 2
    np.testing.assert_allclose([s.tau for s in descent], [s.tau for s in flow], rtol=0.01)


# --- minibatches ----------------------------------------------------------------------


def regression(reduction, n=12):
    key = jax.random.key(3)
    inputs = jax.random.normal(key, (n, 3))
    return SquaredLoss(inputs, jnp.sin(3.0 * inputs[:, 0]) + inputs[:, 1], reduction)


def test_a_run_with_minibatches_is_fixed_by_its_key():
    objective, model = regression("half_mean"), small(d=3)
    runs = [
        gflow.descend(
            model, objective, learning_rate=0.1, steps=300, batch=4, key=jax.random.key(seed)
        )
        for seed in (0, 0, 1)
    ]
    for key, array in runs[0].leaves["weight"].items():
        np.testing.assert_array_equal(array, runs[1].leaves["weight"][key])
    assert np.all(runs[0].loss[1:] != runs[2].loss[1:])
    # of all data, but for the order of sums
    assert runs[0].loss[-1] == pytest.approx(float(objective(runs[0].final)), rel=1e-14)


def test_a_batch_of_all_examples_is_gradient_descent():
    objective, model = regression("half_sum"), small(d=3)
    kwargs = dict(learning_rate=0.01, steps=200)
    full = gflow.descend(model, objective, **kwargs)
    batch = gflow.descend(model, objective, batch=12, key=jax.random.key(0), **kwargs)
    np.testing.assert_allclose(batch.loss, full.loss, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["half_mean", "half_sum", "mean", "sum"])
def test_the_minibatch_gradient_is_unbiased(reduction):
    objective = regression(reduction)
    n, batch, steps, rate = 12, 4, 4000, 1e-9
    model = Linear(jnp.array([0.3, -0.2, 0.1]))
    traj = gflow.descend(
        model, objective, learning_rate=rate, steps=steps, batch=batch, key=jax.random.key(7)
    )
    mean = (model.weight - traj.final.weight) / (rate * steps)

    inputs, targets = np.asarray(objective.inputs), np.asarray(objective.targets)
    residual = inputs @ np.asarray(model.weight) - targets
    single = residual[:, None] * inputs * (1.0 if reduction.startswith("half") else 2.0)
    total = single.mean(0) if reduction.endswith("mean") else single.sum(0)
    # Sampling without replacement: variance of the mean of a batch.
    spread = single.std(0) * np.sqrt((n - batch) / (n - 1) / batch)
    spread *= 1 if reduction.endswith("mean") else n
    assert np.all(np.abs(mean - total) < 4.0 * spread / np.sqrt(steps))


# --- Optax ----------------------------------------------------------------------------


def by_hand(model, objective, optimizer, steps):
    """The loop one would write, compiled as one loop."""

    @eqx.filter_jit
    def train(model, steps):
        arrays, rest = eqx.partition(model, eqx.is_inexact_array)

        def step(_, carry):
            arrays, memory = carry
            gradient = eqx.filter_grad(lambda a: objective(eqx.combine(a, rest)))(arrays)
            updates, memory = optimizer.update(gradient, memory, arrays)
            return eqx.apply_updates(arrays, updates), memory

        start = arrays, optimizer.init(arrays)
        return eqx.combine(lax.fori_loop(0, steps, step, start)[0], rest)

    with jax.numpy_dtype_promotion("standard"):
        return train(model, steps)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.03),
        optax.sgd(0.03, momentum=0.9),
        optax.adam(1e-3),
        optax.adamw(optax.cosine_decay_schedule(1e-3, 500), weight_decay=0.1),
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)
def test_optax_route_is_the_loop_written_by_hand_bit_for_bit(optimizer):
    model = mixed()
    traj = gflow.descend(model, HALF_SUM, optimizer=optimizer, steps=500)
    expected = by_hand(gflow.to_factors(model), HALF_SUM, optimizer, 500)
    trained = (eqx.filter(x, eqx.is_inexact_array) for x in (traj.final, expected))
    assert eqx.tree_equal(*trained)
    assert traj.loss[-1] < 0.5 * traj.loss[0]


def test_sgd_of_optax_is_gradient_descent():
    model = small(-4.0)
    logs = gflow.descend(model, HALF_SUM, learning_rate=0.05, steps=1000)
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.05)
    factors = gflow.descend(model, HALF_SUM, optimizer=optimizer, steps=1000)
    np.testing.assert_allclose(factors.tau, logs.tau, rtol=1e-12)
    np.testing.assert_allclose(
        factors.observables["weight"], logs.observables["weight"], rtol=0, atol=1e-11
    )


def test_minibatches_reach_the_optimizer():
    objective = regression("half_mean")
    kwargs = dict(optimizer=optax.sgd(0.01), steps=50)
    full = gflow.descend(small(-2.0, d=3), objective, **kwargs)
    some = gflow.descend(small(-2.0, d=3), objective, batch=2, key=jax.random.key(0), **kwargs)
    assert np.all(full.loss[1:] != some.loss[1:])


# --- the trajectory -------------------------------------------------------------------


def test_attributes_of_the_trajectory():
    model = small()
    traj = gflow.descend(
        model, HALF_SUM, learning_rate=0.05, steps=250, save_every=100,
        observables={"norm": lambda m: jnp.sum(m.weight.value**2)},
    )  # fmt: skip
    np.testing.assert_allclose(traj.t, 0.05 * np.array([0, 100, 200, 250]), rtol=1e-15)
    np.testing.assert_array_equal(traj.tau, traj.t / 10.0)
    assert traj.loss[0] == HALF_SUM(model)
    assert traj.loss[-1] == pytest.approx(float(HALF_SUM(traj.final)), rel=1e-12)
    value = traj.observables["weight"]
    np.testing.assert_allclose(traj.observables["norm"], np.sum(value**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        np.exp(traj.observables["weight.log_abs"]), np.abs(value), rtol=1e-12
    )
    assert traj.error == {}
    assert traj.successful
    assert traj.status == "made the requested number of steps"
    assert traj.method == "gradient descent, learning rate 0.05, in log coordinates"
    assert traj.statistics["steps"] == 250
    assert np.all(traj.descent > 0)


def test_method_names_what_ran():
    kwargs = dict(steps=2, batch=1, key=jax.random.key(0))
    model = mixed()
    traj = gflow.descend(model, HALF_SUM, learning_rate=0.01, **kwargs)
    assert traj.method == (
        "stochastic gradient descent, minibatches of 1, learning rate 0.01, in factor and log "
        "and raw coordinates"
    )
    traj = gflow.descend(model, HALF_SUM, optimizer=optax.sgd(0.01), **kwargs)
    assert traj.method == "Optax sgd, minibatches of 1, learning rate 0.01, on plain factors"


@pytest.mark.parametrize(("steps", "records"), [(1, 2), (2000, 2001), (4001, 1335)])
def test_at_most_about_2000_records_and_the_last_step_is_one(steps, records):
    traj = gflow.descend(small(), HALF_SUM, learning_rate=0.001, steps=steps)
    assert len(traj.t) == records
    assert traj.t[-1] == pytest.approx(0.001 * steps, rel=1e-14)
    assert np.all(np.diff(traj.t) > 0)


def test_continuing_from_the_final_model_equals_going_straight():
    model, rate = small(-6.0), 0.5
    straight = gflow.descend(model, HALF_SUM, learning_rate=rate, steps=200)
    half = gflow.descend(model, HALF_SUM, learning_rate=rate, steps=100)
    rest = gflow.descend(half.final, HALF_SUM, learning_rate=rate, steps=100)
    np.testing.assert_allclose(rest.t, straight.t[100:], rtol=1e-14)
    for name in ("log_s", "log_d", "sign_s", "sign_d"):
        np.testing.assert_allclose(
            rest.leaves["weight"][name], straight.leaves["weight"][name][100:], rtol=0, atol=1e-12
        )
    flow = gflow.simulate(rest.final, HALF_SUM, t1=101.0)  # and into the flow
    assert flow.t[0] == 100.0
    np.testing.assert_array_equal(flow.final.weight.sign_d, rest.final.weight.sign_d)


def test_save_and_load(tmp_path):
    model, objective = gd_problem()
    traj = gflow.descend(model, objective, learning_rate=RATE, steps=33)
    traj.save(tmp_path / "descent.nc")
    loaded = gflow.Trajectory.load(tmp_path / "descent.nc", like=model)
    assert eqx.tree_equal(loaded.final, traj.final)
    np.testing.assert_array_equal(loaded.t, traj.t)
    np.testing.assert_array_equal(loaded.loss, traj.loss)
    assert loaded.method == traj.method


def test_divergence_keeps_what_there_is_and_says_why():
    model = small(-1.0)
    with pytest.warns(UserWarning, match="gflow.descend diverged.*learning rate"):
        traj = gflow.descend(model, HALF_SUM, learning_rate=9.0, steps=1000)
    assert not traj.successful
    assert traj.status.startswith("diverged")
    assert "learning rate" in traj.status
    assert 0 < traj.statistics["steps"] < 1000
    assert len(traj.t) == traj.statistics["steps"] + 1
    assert np.all(np.isfinite(traj.loss))
    assert float(HALF_SUM(traj.final)) == pytest.approx(traj.loss[-1])


def test_divergence_of_an_optimizer():
    with pytest.warns(UserWarning, match="gflow.descend diverged"):
        traj = gflow.descend(small(-1.0), HALF_SUM, optimizer=optax.sgd(9.0), steps=1000)
    assert not traj.successful
    assert np.all(np.isfinite(traj.loss))


class Counted(eqx.Module):
    """A loss that counts how often it is traced."""

    inner: SquaredLoss
    count: list = eqx.field(static=True)

    def __call__(self, model):
        self.count.append(1)
        return self.inner(model)


class Hashable(list):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def test_another_rate_seed_start_or_number_of_steps_does_not_compile():
    count = Hashable()
    objective = Counted(HALF_SUM, count)
    gflow.descend(small(-10.0, seed=0), objective, learning_rate=0.1, steps=100, decay=0.1)
    count.clear()
    gflow.descend(small(-99.0, seed=1), objective, learning_rate=0.2, steps=7, decay=0.3)
    assert len(count) <= 1  # what it closes over is read once a run


# --- bad input ------------------------------------------------------------------------


class NoData(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.value**2)


class Penalised(eqx.Module):
    inputs: jax.Array
    targets: jax.Array

    def __call__(self, model):
        fit = SquaredLoss(self.inputs, self.targets, "mean")(model)
        return fit + 1.0


KEY = jax.random.key(0)
EQUAL_SIZES = DiagonalLinear(gflow.Hadamard(jnp.ones(4), jnp.ones(4)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(), "learning_rate=η .* or optimizer=.*neither"),
        (dict(learning_rate=0.0), "learning_rate = 0.0 must be a finite number above 0"),
        (dict(learning_rate=-1), "learning_rate = -1 must be"),
        (dict(learning_rate=math.nan), "learning_rate = nan must be"),
        (dict(learning_rate=math.inf), "learning_rate = inf must be"),
        (dict(optimizer="adam"), "optimizer = 'adam' is no Optax.*optax.adam"),
        (dict(optimizer=optax.sgd(0.1), decay=0.1), "decay = 0.1 belongs to.*add_decayed_weights"),
        (dict(optimizer=optax.sgd(0.1), decay={"weight": 0.1}), "decay = .* belongs to"),
        (dict(learning_rate=0.1, decay=-0.1), "decay = -0.1"),
        (dict(learning_rate=0.1, decay={"wieght": 0.1}), "Did you mean.*weight"),
        (dict(learning_rate=0.1, steps=0), "steps = 0.*at least 1"),
        (dict(learning_rate=0.1, save_every=0), "save_every = 0"),
        (dict(learning_rate=0.1, key=KEY), "give batch="),
        (dict(learning_rate=0.1, batch=1), "batch = 1 needs a key.*jax.random.key"),
        (dict(learning_rate=0.1, batch=1, key=3), "not one typed key"),
        (dict(learning_rate=0.1, batch=1, key=jax.random.split(KEY)), "not one typed key"),
        (dict(learning_rate=0.1, batch=0, key=KEY), "batch = 0: choose from 1 to 2"),
        (dict(learning_rate=0.1, batch=3, key=KEY), "batch = 3: choose from 1 to 2"),
        (
            dict(learning_rate=0.1, batch=1, key=KEY, objective=NoData()),
            "objective.inputs.*NoData does not have",
        ),
        (
            dict(learning_rate=0.1, batch=1, key=KEY, objective=Penalised(X, Y[:, None])),
            "predicts shape",
        ),
        (dict(learning_rate=0.1, log_alpha=math.inf), "log_alpha = inf must be finite"),
        (
            dict(learning_rate=0.1, model=Linear(jnp.ones(4, jnp.float32))),
            "float32.*allow_float32",
        ),
        (
            dict(optimizer=optax.sgd(0.1), model=Linear(jnp.ones(4, jnp.float32))),
            "float32.*allow_float32",
        ),
        (
            dict(optimizer=optax.sgd(0.1), model=EQUAL_SIZES),
            r"\|u\| = \|v\|.*allow_frozen_sign",
        ),
        (dict(optimizer=optax.sgd(0.1), model=small(-1e4)), "below the float range"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_its_remedy(kwargs, message):
    kwargs = {"model": small(), "objective": HALF_SUM, "steps": 10, **kwargs}
    model, objective = kwargs.pop("model"), kwargs.pop("objective")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.descend(model, objective, **kwargs)


def test_a_loss_that_is_no_sum_over_examples_has_no_minibatches():
    class Rooted(eqx.Module):
        inputs: jax.Array
        targets: jax.Array

        def __call__(self, model):
            return jnp.sqrt(SquaredLoss(self.inputs, self.targets, "sum")(model))

    with pytest.raises(ValueError, match=r"neither the mean nor the sum.*biased"):
        gflow.descend(
            small(), Rooted(X, jnp.array([1.0, 2.0])), learning_rate=0.1, steps=10, batch=1, key=KEY
        )


def test_a_frozen_sign_is_allowed_where_asked_for():
    traj = gflow.descend(
        EQUAL_SIZES, HALF_SUM, learning_rate=0.1, steps=200, allow_frozen_sign=True
    )
    assert np.all(np.isneginf(traj.leaves["weight"]["log_d"]))
    assert np.all(traj.observables["weight"] >= 0)
    assert traj.loss[-1] < 0.1 * traj.loss[0]
