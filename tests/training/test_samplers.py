"""Samplers: any objective for every step, of data as they are at the call."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import CrossEntropy, MarginLoss, SquaredLoss

KEY = jax.random.key(0)
RATE, STEPS = 0.05, 40


def data(n=12, seed=3):
    x = np.random.default_rng(seed).standard_normal((n, 3))
    return SquaredLoss(x, np.sin(x[:, 0]) - x[:, 1], "half_mean")


def start():
    return DiagonalLinear(gflow.Hadamard.small(3, log_alpha=-2.0, key=jax.random.key(1)))


def rows(objective, key, step):
    """Four rows without replacement, as batch=4 draws them."""
    index = jax.random.choice(key, objective.inputs.shape[0], (4,), replace=False)
    return SquaredLoss(objective.inputs[index], objective.targets[index], "half_mean")


def in_order(objective, key, step):
    """One example after the other."""
    i = step % objective.inputs.shape[0]
    return SquaredLoss(objective.inputs[i][None], objective.targets[i][None], "half_mean")


@pytest.mark.parametrize("how", [dict(learning_rate=RATE), dict(optimizer=optax.sgd(RATE))])
def test_a_number_is_the_sampler_of_so_many_rows(how):
    number = gflow.descend(start(), data(), steps=STEPS, batch=4, key=KEY, **how)
    sampler = gflow.descend(start(), data(), steps=STEPS, batch=rows, key=KEY, **how)
    np.testing.assert_array_equal(number.loss, sampler.loss)
    np.testing.assert_array_equal(number.observables["weight"], sampler.observables["weight"])
    assert "minibatches of 4" in number.method
    assert "batches of a sampler" in sampler.method


def test_a_sampler_by_the_step_against_a_loop():
    objective, model = data(), start()
    traj = gflow.descend(model, objective, learning_rate=RATE, steps=STEPS, batch=in_order, key=KEY)
    x, y = np.asarray(objective.inputs), np.asarray(objective.targets)
    u, v = gflow.to_factors(model).weight.u, gflow.to_factors(model).weight.v
    u, v = np.asarray(u), np.asarray(v)
    for step in range(STEPS):
        i = step % 12
        g = -(x[i] @ (u * v) - y[i]) * x[i]
        u, v = u + RATE * g * v, v + RATE * g * u
    np.testing.assert_allclose(traj.final.weight.value, u * v, rtol=0, atol=1e-13)
    # what is recorded is the loss of all data
    assert traj.loss[-1] == pytest.approx(float(objective(traj.final)), rel=1e-13)


def test_fresh_data_in_every_step_converge_to_the_population():
    """Gaussian inputs drawn anew: E L = ½|w − w*|², and no two steps see the same."""
    truth = jnp.array([1.0, -0.5, 0.3])

    def fresh(objective, key, step):
        x = jax.random.normal(key, (32, 3))
        return SquaredLoss(x, jnp.matmul(x, truth), "half_mean")

    def population(m):
        return 0.5 * jnp.sum((m.weight.value - truth) ** 2)

    traj = gflow.descend(start(), population, learning_rate=0.1, steps=600, batch=fresh, key=KEY)
    np.testing.assert_allclose(traj.final.weight.value, truth, rtol=0, atol=1e-3)


def test_what_a_sampler_reads_is_of_the_moment_and_compiles_once():
    store = {"y": np.zeros(3)}
    traces = []

    def pull(objective, key, step):
        traces.append(1)
        y = store["y"]
        return lambda m: 0.5 * jnp.sum((m["b"] - jnp.asarray(y)) ** 2)

    def none(m):
        return 0.5 * jnp.sum(m["b"] ** 2)

    for value in (1.0, 2.0):
        store["y"] = np.full(3, value)
        end = gflow.descend(
            {"b": jnp.zeros(3)}, none, learning_rate=0.5, steps=3, batch=pull, key=KEY
        )
        np.testing.assert_allclose(end.final["b"], value * (1 - 0.5**3), rtol=1e-14)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda *a, **k: compiled.append(a[0]))
    store["y"] = np.full(3, 3.0)
    traces.clear()
    gflow.descend({"b": jnp.zeros(3)}, none, learning_rate=0.1, steps=30, batch=pull,
                  key=jax.random.key(5))  # fmt: skip
    assert not [x for x in compiled if "backend_compile" in x]
    assert 1 <= len(traces) <= 2  # read once for the call, and again to see that it is a function


@pytest.mark.parametrize("reduction", ["half_mean", "sum"])
def test_batches_of_labels(reduction):
    x = np.random.default_rng(0).standard_normal((8, 2))
    y = np.sign(x[:, 0])

    def model(n):
        return {"w": jnp.zeros(n)}

    def margins(kind):
        inner = MarginLoss(x, y, "logistic")

        class Logistic(eqx.Module):
            inputs: jax.Array
            labels: jax.Array

            def __call__(self, m):
                values = jnp.logaddexp(0.0, -self.labels * jnp.matmul(self.inputs, m["w"]))
                return jnp.sum(values) if kind == "sum" else jnp.mean(values)

        return Logistic(inner.inputs, inner.labels)

    whole = gflow.descend(model(2), margins(reduction), learning_rate=0.1, steps=20)
    batch = gflow.descend(
        model(2), margins(reduction), learning_rate=0.1, steps=20, batch=8, key=KEY
    )
    np.testing.assert_allclose(whole.loss, batch.loss, rtol=1e-12)


def nothing(objective, key, step):
    return None


GENERATOR = np.random.default_rng(0)


def keyless(objective, key, step):
    return SquaredLoss(GENERATOR.standard_normal((2, 3)), np.zeros(2))


def in_python(objective, key, step):
    return objective if step > 3 else data()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (nothing, "sampler batch= returned None.*the objective of a step"),
        (keyless, "sampler batch=.*random numbers of NumPy"),
        (in_python, "sampler batch= decides in Python"),
        (lambda objective, key: objective, "sampler batch= raised TypeError"),
        (lambda o, k, s: lambda m: jnp.ones(2), "must return a scalar"),
        ("4", "batch = '4': give the number"),
        (4.0, "batch = 4.0: give the number"),
        (True, "batch = True: give the number"),
        (13, "batch = 13: choose from 1 to 12"),
    ],
)
def test_a_sampler_that_is_none_says_so(batch, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.descend(start(), data(), learning_rate=RATE, steps=2, batch=batch, key=KEY)


def test_a_sampler_needs_a_key():
    with pytest.raises(ValueError, match="batch = rows needs a key"):
        gflow.descend(start(), data(), learning_rate=RATE, steps=2, batch=rows)


def test_tokens_and_text():
    """A next-token model on windows of a text, drawn anew, with the held-out loss recorded."""
    text = jnp.asarray(np.tile(np.array([0, 1, 2, 3]), 50))

    def windows(objective, key, step):
        starts = jax.random.randint(key, (8,), 0, text.shape[0] - 6)
        return CrossEntropy(text[starts[:, None] + jnp.arange(6)[None]], reduction="token_mean")

    held_out = CrossEntropy(np.array([[0, 1, 2, 3, 0, 1]]), reduction="token_mean")

    class Table(eqx.Module):
        logits: jax.Array

        def __call__(self, tokens):
            return self.logits[tokens]

    traj = gflow.descend(
        Table(jnp.zeros((4, 4))), held_out, optimizer=optax.adam(0.1), steps=200, batch=windows,
        key=KEY,
    )  # fmt: skip
    assert traj.loss[0] == pytest.approx(np.log(4))
    assert traj.loss[-1] < 0.01
