"""Learning rates: schedules, rates by leaf, and the time axis t = Σ η."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from gflow.training._optimizers import name_of, rate_of

A = np.array([2.0, 0.5])
STEPS = 60


class Two(eqx.Module):
    """A product of two and a plain array."""

    w: gflow.Hadamard
    b: jax.Array


def model():
    w = gflow.Hadamard(jnp.array([0.3, -0.2]), jnp.array([0.1, 0.4]), log_alpha=-1.0)
    return Two(w, jnp.array([0.5, -0.3]))


def loss(m):
    return 0.5 * jnp.sum((jnp.asarray(A) * m.w.value + m.b - 1.0) ** 2)


def by_hand(rate_w, rate_b):
    """u, v and b after STEPS steps with rates that are functions of the step."""
    u, v, b = np.array([0.3, -0.2]), np.array([0.1, 0.4]), np.array([0.5, -0.3])
    for i in range(STEPS):
        g = 1.0 - A * u * v - b
        u, v = u + rate_w(i) * A * g * v, v + rate_w(i) * A * g * u
        b = b + rate_b(i) * g
    return u * v, b


def falling(step):
    return 0.2 / (1.0 + 0.1 * step)


def test_a_schedule_is_the_rate_of_every_step_and_its_sum_the_time():
    traj = gflow.descend(model(), loss, learning_rate=falling, steps=STEPS, save_every=7)
    w, b = by_hand(falling, falling)
    np.testing.assert_allclose(traj.final.w.value, w, rtol=0, atol=1e-14)
    np.testing.assert_allclose(traj.final.b, b, rtol=0, atol=1e-14)
    times = np.cumsum([0.0, *(falling(i) for i in range(STEPS))])
    np.testing.assert_allclose(traj.t, [*times[:STEPS:7], times[-1]], rtol=1e-14)
    np.testing.assert_array_equal(traj.tau, traj.t)
    assert "learning rate by a schedule" in traj.method


def test_a_schedule_of_optax_and_a_constant_one():
    schedule = optax.exponential_decay(0.1, 50, 0.5)
    traj = gflow.descend(model(), loss, learning_rate=schedule, steps=STEPS)
    rates = 0.1 * 0.5 ** (np.arange(STEPS) / 50)
    np.testing.assert_allclose(traj.t, np.cumsum([0.0, *rates]), rtol=1e-14)
    constant = gflow.descend(model(), loss, learning_rate=optax.constant_schedule(0.1), steps=STEPS)
    number = gflow.descend(model(), loss, learning_rate=0.1, steps=STEPS)
    np.testing.assert_array_equal(constant.loss, number.loss)
    np.testing.assert_allclose(constant.t, number.t, rtol=1e-14)


def test_each_leaf_has_a_rate_of_its_own():
    rates = {"w": falling, "b": 0.05}
    traj = gflow.descend(model(), loss, learning_rate=rates, steps=STEPS)
    w, b = by_hand(falling, lambda i: 0.05)
    np.testing.assert_allclose(traj.final.w.value, w, rtol=0, atol=1e-14)
    np.testing.assert_allclose(traj.final.b, b, rtol=0, atol=1e-14)
    assert "learning rates w by a schedule, b 0.05" in traj.method
    # there is no one time: it says so, and counts steps
    np.testing.assert_array_equal(traj.t, np.arange(STEPS + 1))
    with pytest.raises(ValueError, match="learning rates of their own, so that t counts steps"):
        _ = traj.tau


def test_a_rate_of_zero_keeps_a_leaf_still_and_equal_rates_are_one():
    still = gflow.descend(model(), loss, learning_rate={"w": 0.1, "b": 0}, steps=STEPS)
    np.testing.assert_array_equal(still.final.b, model().b)
    np.testing.assert_allclose(
        still.final.w.value, by_hand(lambda i: 0.1, lambda i: 0.0)[0], rtol=0, atol=1e-14
    )
    equal = gflow.descend(model(), loss, learning_rate={"w": 0.1, "b": 0.1}, steps=STEPS)
    one = gflow.descend(model(), loss, learning_rate=0.1, steps=STEPS)
    np.testing.assert_array_equal(equal.loss, one.loss)
    np.testing.assert_array_equal(equal.t, one.t)


# --- Optax ----------------------------------------------------------------------------

WARM = optax.warmup_cosine_decay_schedule(0.0, 0.1, 20, 60, 0.01)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(WARM),
        optax.adam(WARM),
        optax.adamw(WARM, weight_decay=0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.lion(WARM)),
        optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(WARM), optax.scale(-1.0)),
        optax.chain(optax.adam(lambda step: 2.0 * WARM(step)), optax.scale(0.5)),
        optax.inject_hyperparams(optax.adam)(learning_rate=WARM),
        optax.named_chain(("clip", optax.clip(1.0)), ("rule", optax.rmsprop(WARM))),
    ],
    ids=["sgd", "adam", "adamw", "clipped", "by parts", "halved", "injected", "named"],
)
def test_time_is_the_sum_of_the_rates_of_the_optimiser(optimizer):
    traj = gflow.descend(model(), loss, optimizer=optimizer, steps=STEPS)
    rates = np.array([float(WARM(i)) for i in range(STEPS)])
    # Optax has schedules in float32
    np.testing.assert_allclose(traj.t, np.cumsum([0.0, *rates]), rtol=1e-6)
    assert not traj.counts_steps
    np.testing.assert_array_equal(traj.tau, traj.t)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.rprop(0.1),  # its last stage is a change of sign
        optax.adafactor(0.1),
        optax.chain(optax.adam(0.1), optax.trace(0.5)),  # what follows may be anything
        optax.multi_transform({"a": optax.sgd(0.1), "b": optax.sgd(0.2)}, Two("a", "b")),
        optax.stateless(lambda g, p: jax.tree.map(lambda x: -0.1 * x, g)),
        optax.lbfgs(),
        optax.inject_hyperparams(lambda eta: optax.sgd(eta))(eta=0.1),
    ],
    ids=["rprop", "adafactor", "traced", "by leaf", "stateless", "lbfgs", "other name"],
)
def test_a_rate_that_is_not_seen_is_not_guessed(optimizer):
    traj = gflow.descend(model(), loss, optimizer=optimizer, steps=10)
    assert traj.counts_steps
    np.testing.assert_array_equal(traj.t, np.arange(11))
    with pytest.raises(ValueError, match=r"counts steps.*learning_rate=.*inject_hyperparams"):
        _ = traj.tau
    told = gflow.descend(model(), loss, optimizer=optimizer, learning_rate=WARM, steps=10)
    np.testing.assert_array_equal(told.loss, traj.loss)
    np.testing.assert_allclose(
        told.t, np.cumsum([0.0, *(float(WARM(i)) for i in range(10))]), rtol=1e-6
    )


def test_a_second_rate_must_be_the_first():
    for optimizer in (optax.adam(0.1), optax.inject_hyperparams(optax.adam)(learning_rate=0.1)):
        same = gflow.descend(model(), loss, optimizer=optimizer, learning_rate=0.1, steps=3)
        np.testing.assert_allclose(same.t, [0.0, 0.1, 0.2, 0.3], rtol=1e-15)
        with pytest.raises(ValueError, match=r"learning_rate is 0\.2 .*optimizer has 0\.1"):
            gflow.descend(model(), loss, optimizer=optimizer, learning_rate=0.2, steps=3)


def test_a_rate_of_one_is_a_rate():
    assert rate_of(optax.sgd(1.0)) == 1.0
    assert rate_of(optax.chain(optax.scale_by_rms(), optax.scale(-1.0))) is None
    assert rate_of(optax.scale(0.1)) is None  # uphill


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (optax.sgd(0.1), "sgd"),
        (optax.sgd(0.1, momentum=0.9), "sgd with momentum"),
        (optax.adam(WARM), "adam"),
        (optax.adamw(0.1), "adamw"),
        (optax.lion(0.1), "lion"),
        (optax.chain(optax.clip(1.0), optax.adamw(0.1)), "clip + adamw"),
        (optax.inject_hyperparams(optax.rmsprop)(learning_rate=0.1), "rmsprop"),
        (optax.GradientTransformation(lambda p: (), lambda g, s, p: (g, s)), "optimizer"),
    ],
)
def test_names(optimizer, name):
    assert name_of(optimizer) == name


def test_a_line_search_sees_the_loss():
    """L-BFGS on a quadratic of two unknowns is there in a few steps."""
    start = {"b": jnp.array([3.0, -4.0])}

    def bowl(m):
        return 0.5 * jnp.sum(jnp.array([1.0, 30.0]) * (m["b"] - 1.0) ** 2)

    traj = gflow.descend(start, bowl, optimizer=optax.lbfgs(), steps=12)
    assert traj.loss[-1] < 1e-20 < traj.loss[1]


class Counted:
    def __init__(self):
        self.count = 0

    def __call__(self, m):
        self.count += 1
        return loss(m)


def test_an_equal_optimiser_compiles_nothing(monkeypatch):
    gflow.descend(model(), loss, optimizer=optax.adam(0.1), steps=10)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda *a, **k: compiled.append(a[0]))
    gflow.descend(model(), loss, optimizer=optax.adam(0.1), steps=20)
    assert not [x for x in compiled if "backend_compile" in x]


def test_what_an_optimiser_closes_over_is_data_of_the_moment():
    scale = np.array([0.1, 0.1])
    rule = optax.stateless(lambda g, p: jax.tree.map(lambda x: -jnp.asarray(scale) * x, g))
    start = {"b": jnp.zeros(2)}

    def bowl(m):
        return 0.5 * jnp.sum((m["b"] - 1.0) ** 2)

    for size in (0.1, 0.5):
        scale[:] = size
        end = gflow.descend(start, bowl, optimizer=rule, steps=3).final["b"]
        np.testing.assert_allclose(end, 1.0 - (1.0 - size) ** 3, rtol=1e-14)


def test_a_small_model_in_float32_keeps_its_precision():
    start = {"b": jnp.zeros(2, jnp.float32)}

    def bowl(m):
        return 0.5 * jnp.sum((m["b"] - 1) ** 2)

    for how in (dict(optimizer=optax.adamw(WARM)), dict(learning_rate=falling)):
        traj = gflow.descend(start, bowl, steps=50, allow_float32=True, **how)
        assert traj.final["b"].dtype == jnp.float32
        assert traj.loss[-1] < 0.5 * traj.loss[0]


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ({"w": 0.1}, r"says nothing of \['b'\]"),
        ({"w": 0.1, "b": 0.1, "c": 0.1}, "names leaf 'c'.*Did you mean"),
        ({"w": 0.1, "b": -0.1}, r"learning_rate\['b'\] = -0.1 must be a finite number of at least"),
        ({"w": 0, "b": 0}, "nothing would move"),
        ({"w": "fast", "b": 0.1}, r"learning_rate\['w'\] = 'fast'"),
        ("fast", "learning_rate = 'fast' must be a number above 0, or a schedule"),
        (True, "learning_rate = True"),
        (lambda step: jnp.ones(2), "returned .* for one step: a schedule returns one number"),
        (lambda step: None, "returned None for one step"),
        (lambda step: 0.1 - 0.01 * step, "is -0.0[01].* at step 11 of the run"),
        (lambda step: 1.0 / step, "is inf at step 0"),
    ],
)
def test_rates_that_are_none_say_so(rate, message):
    with pytest.raises(ValueError, match=message):
        gflow.descend(model(), loss, learning_rate=rate, steps=20)


def test_what_does_not_go_together_says_so():
    with pytest.raises(ValueError, match="by leaf is for gradient descent"):
        gflow.descend(
            model(), loss, optimizer=optax.sgd(0.1), learning_rate={"w": 0.1, "b": 0.1}, steps=1
        )
    with pytest.raises(ValueError, match="there is no one time"):
        gflow.descend(
            model(), loss, learning_rate={"w": 0.1, "b": 0.2}, decay=lambda t: 0.1, steps=1
        )
