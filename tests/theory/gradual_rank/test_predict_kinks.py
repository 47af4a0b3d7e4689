"""Kinks of a loss at zero weights: per-sign forces are followed, others refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import gflow
import theory
from theory.gradual_rank import predict

INPUTS = np.random.default_rng(4).normal(size=(60, 2))
PATCHES = np.random.default_rng(5).normal(size=(60, 4, 2))
TEACHER = np.array([1.0, -0.6])
FOUR = np.random.default_rng(7).normal(size=(80, 4))
EFFECTS = np.array([1.2, -0.5, 0.3, -0.05])
#: Inputs with these moments: w[1] is held at first, and released once w[0] and w[2] are there.
MOMENTS = np.array([[1.0, -0.7, 0.1], [-0.7, 1.0, 0.3], [0.1, 0.3, 1.0]])
HELD = np.linalg.qr(np.random.default_rng(2).normal(size=(40, 3)))[0] @ (
    np.linalg.cholesky(MOMENTS).T * np.sqrt(40.0)
)
PENALTY, TARGET = 0.2, np.array([2.0, 1.3, 0.5])


def small(*names, seed=0, size=2, log_alpha=-70.0):
    keys = jax.random.split(jax.random.key(seed), len(names))
    return {
        name: gflow.Hadamard.small(size, log_alpha=log_alpha, key=key)
        for name, key in zip(names, keys, strict=True)
    }


def half_mean(output, target):
    return 0.5 * jnp.mean((output - target) ** 2)


def leaky(m):
    return half_mean(
        jax.nn.leaky_relu(INPUTS @ m["w"].value, 0.1), jax.nn.leaky_relu(INPUTS @ TEACHER, 0.1)
    )


def linear_path_beside_relu(m):
    target = INPUTS @ np.array([0.5, 0.2]) + np.maximum(INPUTS @ TEACHER, 0.0)
    return half_mean(INPUTS @ m["c"].value + jax.nn.relu(INPUTS @ m["w"].value), target)


def max_pooling(m):
    return half_mean(jnp.max(PATCHES @ m["w"].value, 1), np.max(PATCHES @ TEACHER, 1))


def lasso(m):
    w = m["w"].value
    return half_mean(HELD @ w, HELD @ TARGET) + PENALTY * jnp.sum(jnp.abs(w))


def leaky_weights(m):
    return half_mean(FOUR @ jax.nn.leaky_relu(m["w"].value, 0.3), FOUR @ EFFECTS)


def relu_weights(m):
    return half_mean(FOUR[:, :2] @ m["c"].value + FOUR @ jax.nn.relu(m["w"].value), FOUR @ EFFECTS)


@pytest.mark.parametrize(
    ("names", "loss"),
    [(("w",), leaky), (("c", "w"), linear_path_beside_relu), (("w",), max_pooling)],
)
def test_forces_that_depend_on_which_weight_is_larger_are_refused(names, loss):
    with pytest.raises(ValueError, match=r"At the start .* larger .* on w\[\d\] it varies by"):
        predict(small(*names), loss)


def lasso_by_hand(log_s, log_d, end):
    """θ and a list of events: x' = b − Aθ − λ sign x, x = 0 held while |b − Aθ| ≤ λ."""
    x, c, mode, t, events = 0.5 * (log_s - log_d), 0.5 * (log_s + log_d), 0, 0.0, []
    mode = np.sign(x)

    def theta(x):
        return np.sign(x) * np.exp(2 * c + 2 * np.abs(x)) * -np.expm1(-4 * np.abs(x)) / 4

    def force(x):
        return MOMENTS @ (TARGET - theta(x))

    def ending(function, key):
        function.terminal, function.key = True, key
        return function

    def speed(x, on):
        return np.where(on == 0, 0.0, force(x) - PENALTY * on)

    while t < end:
        on = mode.copy()
        watched = []
        for i in range(3):
            if on[i]:
                watched.append(ending(lambda t, x, i=i, s=on[i]: x[i] * s + 1e-14, (i, 0.0)))
            else:
                watched += [
                    ending(lambda t, x, i=i, s=s: s * force(x)[i] - PENALTY, (i, s))
                    for s in (1.0, -1.0)
                ]
        run = solve_ivp(
            lambda t, x, on=on: speed(x, on), (t, end), x,
            method="DOP853", rtol=1e-12, atol=1e-12, events=watched, max_step=5.0,
        )  # fmt: skip
        t, x = run.t[-1], run.y[:, -1].copy()
        for function, times in zip(watched, run.t_events, strict=True):
            if len(times):
                (i, side), old = function.key, on[function.key[0]]
                x[i] = 1e-15 * side
                through = not side and -old * (force(x)[i] + old * PENALTY) > 0
                mode[i] = -old if through else side
                events.append((i, mode[i]))
    return theta(x), events


def test_a_weight_that_a_penalty_holds_is_released_where_it_is_by_hand():
    # signs (1, −1, −1): w[1] comes to zero and is held, w[2] crosses, w[1] is released by w[0]
    model = small("w", seed=5, size=3)
    log_s, log_d = np.asarray(model["w"].log_s), np.asarray(model["w"].log_d)
    prediction = predict(model, lasso)
    assert [s.label for s in prediction.stages] == ["+w[0]", "+w[2]", "+w[1]"]
    first, _, last = prediction.stages
    b = MOMENTS @ TARGET
    np.testing.assert_allclose(first.tau, 1 / (b[0] - PENALTY), rtol=1e-12)
    for scale in (150.0, 400.0):
        gain = 70.0 - scale
        logs = log_s + gain, log_d + gain
        time = last.tau * scale + last.offset

        def height(t, logs=logs):
            return lasso_by_hand(*logs, t)[0][1] - last.level[1]

        assert abs(brentq(height, time - 1.0, time + 1.0, xtol=1e-9) - time) < 3e-8 + np.exp(
            -0.05 * scale
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "names", "size"),
    [(lasso, ("w",), 3), (leaky_weights, ("w",), 4)],
)
def test_paths_with_a_force_for_each_sign_are_those_of_runs(loss, names, size):
    # at 1e-100 squares of weights underflow
    model = small(*names, seed=5, size=size, log_alpha=-230.0)
    prediction = predict(model, loss)
    last = prediction.stages[-1]
    run = gflow.simulate(model, loss, t1=1.1 * (230.0 * last.tau + last.offset))
    compared = theory.compare(run, prediction)
    assert compared.passed, str(compared)
    time = 230.0 * last.tau + last.offset
    measured = run.stages()[-1]
    assert abs(measured.t - time) <= measured.error < 3e-7


def test_a_unit_that_dies_beside_a_linear_path_stays_dead():
    # at signs (−, +, +, −) of w only w[1] moves towards zero: relu′ = 0 beyond it
    model = {
        "c": gflow.Hadamard.from_scales(
            log_s=np.array([-70.4, -70.1]), log_d=np.array([-70.2, -70.3]), sign_s=np.ones(2),
            sign_d=np.ones(2), log_alpha=-70.0,
        ),
        "w": gflow.Hadamard.from_scales(
            log_s=np.array([-70.4, -69.9, -69.8, -70.2]),
            log_d=np.array([-70.1, -70.2, -70.3, -70.1]),
            sign_s=np.ones(4), sign_d=np.ones(4), log_alpha=-70.0,
        ),
    }  # fmt: skip
    prediction = predict(model, relu_weights)
    assert "a kink of the loss holds 1 at zero" in prediction.ended
    force = FOUR.T @ (FOUR @ EFFECTS) / 80
    assert prediction.stages[0].label == "+c[0]"
    np.testing.assert_allclose(prediction.stages[0].tau, 1 / force[0], rtol=1e-12)
    assert all(
        s.value["w"][0] == s.value["w"][1] == s.value["w"][3] == 0 for s in prediction.stages
    )


def test_a_sign_that_a_transition_changes_at_a_kink_ends_the_path():
    # w feels −0.2c ∓ 0.1c: nothing at first, so that ½ log(s/d) is of order one when c switches
    def loss(m):
        c, w = m["c"].value[0], m["w"].value[0]
        return 0.5 * (c - 1.0) ** 2 + c * (0.2 * w + 0.1 * jnp.abs(w)) + 0.25 * w**2

    def model(log_s, log_d):
        one = dict(sign_s=np.ones(1), sign_d=np.ones(1), log_alpha=-70.0)
        return {
            "c": gflow.Hadamard.from_scales(
                log_s=np.array([-70.0]), log_d=np.array([-70.5]), **one
            ),
            "w": gflow.Hadamard.from_scales(
                log_s=np.array([log_s]), log_d=np.array([log_d]), **one
            ),
        }

    with pytest.warns(UserWarning, match="changes the sign of weights of 'w'"):
        assert not predict(model(-70.0, -70.2), loss).stages
    # with w < 0 from the start: 0.1 on, 1 + 1/0.1
    below = predict(model(-70.2, -70.0), loss)
    np.testing.assert_allclose([s.tau for s in below.stages], [1.0, 11.0], rtol=1e-12)


def test_a_kink_that_appears_at_a_later_saddle_takes_the_side_of_the_weight():
    # −∂L/∂w = ±0.1c at w = 0: nothing at the start, and away from zero on both sides once c = 1
    def loss(m):
        c, w = m["c"].value[0], m["w"].value[0]
        return 0.5 * (c - 1.0) ** 2 - 0.1 * c * jnp.abs(w) + 0.05 * w**2

    for seed in (0, 1):
        model = {
            name: gflow.Hadamard.small(1, log_alpha=-70.0, key=jax.random.key(seed))
            for name in "cw"
        }
        prediction = predict(model, loss)
        assert [stage.label for stage in prediction.stages] == ["+c[0]", "+w[0]"]
        np.testing.assert_allclose([s.tau for s in prediction.stages], [1.0, 11.0], rtol=1e-12)
        sign = np.sign(model["w"].value[0])
        # of ½(c − 1)² − 0.1 c|w| + 0.05 w²: |w| = c and c = 1 + 0.1|w|
        np.testing.assert_allclose(prediction.stages[1].value["w"], [sign / 0.9], rtol=1e-10)


def test_kinks_away_from_zero_change_nothing():
    # |residual| < 1000 throughout, where Huber's loss is the square
    def square(m):
        return half_mean(INPUTS @ m["w"].value, INPUTS @ TEACHER)

    def huber(m):
        residual = INPUTS @ m["w"].value - INPUTS @ TEACHER
        return jnp.mean(optax.huber_loss(residual, delta=1000.0))

    one, other = predict(small("w"), square), predict(small("w"), huber)
    assert [s.label for s in one.stages] == [s.label for s in other.stages]
    np.testing.assert_allclose([s.tau for s in one.stages], [s.tau for s in other.stages], 1e-12)
    np.testing.assert_allclose(
        [s.offset for s in one.stages], [s.offset for s in other.stages], rtol=1e-8
    )
    at_small = [theory.remainder.remainder(p, -30.0).time for p in (one, other)]
    np.testing.assert_allclose(at_small[0], at_small[1], rtol=0.1)
