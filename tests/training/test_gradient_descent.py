"""Discrete training: gradient descent against 200 digits, SGD, and Optax."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descent_problems import GD, HALF_SUM, RATE, X, Y, gd_problem, mixed, small
from jax import lax
from kinds import Linear

import gflow
from gflow.objectives import SquaredLoss

# --- gradient descent -----------------------------------------------------------------


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
    rate = 0.01
    descent = gflow.descend(model, HALF_SUM, learning_rate=rate, steps=16_200).stages()
    assert [s.activated for s in descent] == [s.activated for s in flow]
    assert len(flow) >= 2
    # a weight grows by log(1 + ηg) where the flow has ηg: by at most a share ηg/2 slower, and no
    # force is larger than that of the first stage, 1/τ₁ in the limit
    lag = np.array([d.tau / f.tau - 1.0 for d, f in zip(descent, flow, strict=True)])
    assert np.all((lag > 0.0) & (lag < 1.05 * 0.5 * rate / flow[0].tau))


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
