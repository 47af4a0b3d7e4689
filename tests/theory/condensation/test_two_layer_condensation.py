"""Neurons of a two-layer network against matrix exponentials, raw integration and full networks."""

import math

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory.reproduce.condensation.two_layer.problem import Problem
from theory.two_layer_condensation import (
    force,
    linear_course,
    linear_escape,
    orientations,
    two_layer_escapes,
)
from theory.two_layer_condensation._circle_forms import binary_form, on_circle


def draw(seed, n=9):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)), rng.standard_normal(n)


def values(x, e, p, phi):
    """h on the circle, term by term."""
    return sum(
        s * (np.cos(phi) * r[0] + np.sin(phi) * r[1]) ** p for s, r in zip(e, x, strict=True)
    ) / len(e)


def test_linear_course_at_fifty_digits():
    """exp of the matrix of a' = g·w, w' = a g; the defect where double precision has none left."""
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal((6, 3)), rng.standard_normal(6)
    g = force(x, e)
    np.testing.assert_allclose(g, sum(s * r for s, r in zip(e, x, strict=True)) / 6, rtol=1e-13)
    a, w = rng.standard_normal(2), rng.standard_normal((2, 3))
    t = np.array([0.0, 0.7, 30.0])
    found = linear_course(a, w, g, t)
    with mpmath.workdps(50):
        matrix = mpmath.zeros(4)
        for i in range(3):
            matrix[0, i + 1] = matrix[i + 1, 0] = mpmath.mpf(g[i])
        for k, j in np.ndindex(3, 2):
            end = mpmath.expm(matrix * float(t[k])) * mpmath.matrix([a[j], *w[j]])
            inner = list(end)[1:]
            dot = sum(p * mpmath.mpf(q) for p, q in zip(inner, g, strict=True))
            length = mpmath.sqrt(sum(p**2 for p in inner))
            defect = 1 - abs(dot) / length / mpmath.sqrt(sum(mpmath.mpf(q) ** 2 for q in g))
            np.testing.assert_allclose(found.outer[k, j], float(end[0]), rtol=1e-12)
            np.testing.assert_allclose(found.inner[k, j], [float(z) for z in inner], rtol=1e-11)
            np.testing.assert_allclose(found.defect[k, j], float(defect), rtol=1e-11)


def test_the_late_cosine():
    x, e = draw(1)
    g = force(x, e)
    rate = np.linalg.norm(g)
    a, w = np.array([0.8]), np.array([[0.3, -0.5]])
    along = w @ g / rate
    across = w[0] @ w[0] - along**2
    t = 20 / rate
    expected = 2 * across / (a + along) ** 2 * math.exp(-40)
    np.testing.assert_allclose(linear_course(a, w, g, t).defect, expected, rtol=1e-12)


def test_linear_escape_is_where_the_course_has_that_size():
    x, e = draw(2)
    g = force(x, e)
    rng = np.random.default_rng(3)
    a, w = rng.standard_normal(7), rng.standard_normal((7, 2))
    for eps in (1.0, 1e-3, 1e-9):
        level = 5.0 if eps == 1.0 else 0.01
        t = linear_escape(eps * a, eps * w, g, level)
        size = np.linalg.norm(linear_course(eps * a, eps * w, g, t).outer)
        np.testing.assert_allclose(size, level, rtol=1e-12)
    slope = np.diff([linear_escape(10.0**-k * a, 10.0**-k * w, g, 0.01) for k in (8, 9)])
    np.testing.assert_allclose(slope, math.log(10) / np.linalg.norm(g), rtol=1e-11)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_orientations_are_the_turning_points_of_h(p, seed):
    x, e = draw(seed)
    found = orientations(x, e, p)
    assert len(found.angle) <= 2 * p
    phi = np.linspace(0, 2 * np.pi, 200_001)
    h = values(x, e, p, phi)
    rises = np.sign(np.diff(h))
    turns = phi[np.flatnonzero(rises != np.roll(rises, 1)) % 200_000]
    assert len(found.angle) == len(turns)
    np.testing.assert_allclose(found.angle, np.sort(turns), atol=1e-4)
    np.testing.assert_allclose(found.value, values(x, e, p, found.angle), rtol=1e-10)
    # maxima and minima alternate; those of the right sign of h attract
    for angle, curvature, attracts in zip(
        found.angle, found.curvature, found.attracts, strict=True
    ):
        near = values(x, e, p, angle + np.array([-1e-3, 0.0, 1e-3]))
        np.testing.assert_allclose((near[0] + near[2] - 2 * near[1]) * 1e6, curvature, rtol=1e-3)
        side = 1 if curvature < 0 else -1
        assert attracts == (side if side * near[1] > 0 else 0)


def test_one_orientation_pair_is_that_of_the_force():
    x, e = draw(4)
    found, g = orientations(x, e, 1), force(x, e)
    assert list(np.sort(found.attracts)) == [-1, 1]
    up = found.angle[found.attracts == 1]
    np.testing.assert_allclose([np.cos(up[0]), np.sin(up[0])], g / np.linalg.norm(g), rtol=1e-12)


def test_roots_at_infinity_and_repeated_ones():
    """h = w1³: H = cos³φ has a double zero of H' at ±90°, counted once, and turns at 0 and 180°."""
    found = orientations([[1.0, 0.0]], [1.0], 3)
    np.testing.assert_allclose(found.angle, np.pi * np.array([0, 0.5, 1, 1.5]), atol=1e-12)
    np.testing.assert_array_equal(found.attracts, [1, 0, -1, 0])
    # w1²w2² (w1² + w2²) and its like: p = 6 with (w1w2)³ has triple zeros at the axes
    terms = np.zeros(7)
    terms[3] = 1.0
    value, slope, _ = on_circle(terms, np.pi / 4)
    np.testing.assert_allclose([value, slope], [1 / 8, 0.0], atol=1e-15)


def test_the_form_of_a_sum_of_powers():
    x, e = draw(5)
    phi = np.linspace(0, 6, 11)
    for p in (1, 2, 5):
        value, slope, second = on_circle(binary_form(x, e, p, 1.7), phi)
        np.testing.assert_allclose(value, 1.7 * values(x, e, p, phi), rtol=1e-11, atol=1e-13)
        step = 1e-5
        ahead, behind = (1.7 * values(x, e, p, phi + s) for s in (step, -step))
        scale = np.max(np.abs(value)) * p**2
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), atol=1e-8 * scale)
        np.testing.assert_allclose(
            second, (ahead + behind - 2 * value) / step**2, atol=1e-4 * scale
        )


def raw(a, w, x, e, p, level):
    """(time, w, a) at ρ = level by integrating a' = h, w' = a∇h as they stand."""

    def field(_, y):
        dots = x @ y[1:]
        return np.append(
            np.mean(e * dots**p), y[0] * p * np.mean((e * dots ** (p - 1))[:, None] * x, axis=0)
        )

    def grown(_, y):
        return math.sqrt(p * y[0] ** 2 + y[1] ** 2 + y[2] ** 2) - level

    grown.terminal, grown.direction = True, 1.0
    size = math.sqrt(a**2 + w @ w)
    path = solve_ivp(field, (0.0, 1e8), [a, *w], method="DOP853", rtol=1e-11, atol=1e-13 * size,
                     events=grown)  # fmt: skip
    return path.t_events[0][0], path.y_events[0][0]


@pytest.mark.parametrize("p", [2, 3])
def test_escapes_are_those_of_the_equations_as_they_stand(p):
    x, e = Problem(1).x, Problem(1).y
    rng = np.random.default_rng(6)
    a, w = 1e-2 * rng.standard_normal(5), 1e-2 * rng.standard_normal((5, 2))
    found = two_layer_escapes(a, w, x, e, p, 0.5)
    alive = np.flatnonzero(np.isfinite(found.time))
    assert len(alive) >= 4
    for j in alive:
        t, y = raw(a[j], w[j], x, e, p, 0.5)
        np.testing.assert_allclose(found.time[j], t, rtol=1e-7)
        np.testing.assert_allclose(
            found.angle[j], math.atan2(y[2], y[1]) % (2 * math.pi), atol=1e-7
        )
        assert found.sign[j] == np.sign(y[0])
        # ‖w‖² − p a² is what it was
        kept = y[1] ** 2 + y[2] ** 2 - p * y[0] ** 2
        assert abs(kept - (w[j] @ w[j] - p * a[j] ** 2)) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("p", [2, 3])
def test_the_blow_up_scales_with_the_start_and_ends_at_an_orientation(p):
    x, e = Problem(1).x, Problem(1).y
    rng = np.random.default_rng(7)
    a, w = rng.standard_normal(6), rng.standard_normal((6, 2))
    one, small = (two_layer_escapes(s * a, s * w, x, e, p) for s in (1.0, 1e-4))
    np.testing.assert_allclose(small.time, one.time * 1e4 ** (p - 1), rtol=1e-8)
    limits = orientations(x, e, p)
    for angle, sign in zip(one.angle, one.sign, strict=True):
        if math.isfinite(angle):
            distance = np.abs(np.angle(np.exp(1j * (angle - limits.angle))))
            assert np.min(distance) < 1e-6
            assert limits.attracts[np.argmin(distance)] == sign
    assert np.sum(np.isfinite(one.angle)) >= 4


def test_a_neuron_on_its_orientation_has_a_closed_course():
    """x = (1, 0), p = 2, balanced: a' = w² = 2a², so that T = 1/(2a₀)."""
    found = two_layer_escapes([0.01], [[0.01 * math.sqrt(2), 0.0]], [[1.0, 0.0]], [1.0], 2)
    np.testing.assert_allclose(found.time, 50.0, rtol=1e-9)
    level = two_layer_escapes([0.01], [[0.01 * math.sqrt(2), 0.0]], [[1.0, 0.0]], [1.0], 2, 0.2)
    np.testing.assert_allclose(level.time, 50.0 - 1 / (2 * 0.1), rtol=1e-9)
    assert (found.sign, found.angle) == (1.0, 0.0)


def test_the_approach_to_an_orientation_has_the_exponent_kappa():
    x, e = Problem(1).x, Problem(1).y
    a, w = np.array([1e-6]), np.array([[1.2e-6, 0.4e-6]])
    p = 2
    limits = orientations(x, e, p)
    off = []
    for level in (1e-3, 1e-2):
        found = two_layer_escapes(a, w, x, e, p, level)
        distance = np.abs(np.angle(np.exp(1j * (found.angle - limits.angle))))
        i = int(np.argmin(distance))
        off.append(distance[i])
    kappa = abs(limits.curvature[i]) / (p * abs(limits.value[i]))
    assert abs(math.log10(off[0] / off[1]) - kappa) < 1e-3


def test_neurons_without_an_upward_direction_die_out():
    """h = −‖w‖²-like: a > 0 with 2a² > ‖w‖² shrinks w to 0, and a > 0 with less turns negative."""
    x, e = np.eye(2) * [[1.0], [0.8]], np.array([-1.0, -1.0])
    found = two_layer_escapes([1.0, 0.1], [[0.5, 0.2], [0.5, 0.2]], x, e, 2)
    assert math.isnan(found.time[0])
    assert math.isnan(found.angle[0])
    assert found.sign[1] == -1.0


@pytest.mark.slow
def test_the_first_neuron_of_a_network_escapes_as_predicted():
    """All neurons together, tanh in place of its leading power, squared loss."""
    setting = Problem(6)
    level = 0.02
    for p in (2, 3):
        a, w = 1e-4 * setting.outer, 1e-4 * setting.inner
        found = two_layer_escapes(a, w, setting.x, setting.y, p, level)
        first = int(np.nanargmin(found.time))
        run = setting.run(1e-4, p, float(found.time[first]))
        outer, inner = (run.observables[n][-1, first] for n in ("outer", "inner"))
        rho = math.sqrt(p * outer**2 + inner @ inner)
        bound = setting.bound(p, level)
        assert abs(math.log(rho / level)) < bound
        assert abs(math.atan2(inner[1], inner[0]) % (2 * math.pi) - found.angle[first]) < bound
        assert np.sign(outer) == found.sign[first]


def test_the_network_of_the_experiment_is_what_it_says():
    setting = Problem(3)
    x = np.array([0.3, -0.8])
    for p, power in ((1, 0), (2, 1), (3, 2)):
        z = setting.inner @ x
        expected = np.sum(setting.outer * z**power * np.tanh(z))
        np.testing.assert_allclose(setting.start(1.0, p)(jnp.asarray(x)), expected, rtol=1e-13)


X, E = draw(0)
A, W = np.ones(2), np.ones((2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: force(X, E[:3]), r"\(n, d\) and \(n,\)"),
        (lambda: force(X.astype(np.float32), E), "float64"),
        (lambda: linear_course(A, W[:1], np.ones(2), 1.0), r"\(m,\) and \(m, d\)"),
        (lambda: linear_course(A, W, np.ones(3), 1.0), "dimension of W0's rows"),
        (lambda: linear_course(A, W, np.zeros(2), 1.0), "not 0"),
        (lambda: linear_course(A, W, np.ones(2), np.inf), "times finite"),
        (lambda: linear_course(A, W, np.ones(2), -1.0), "≥ 0"),
        (lambda: linear_escape(A, W, np.ones(2), 0.1), "above √Σa²"),
        (lambda: orientations(np.ones((3, 3)), np.ones(3), 2), "two dimensions"),
        (lambda: orientations(X, E, 0), "p = 0"),
        (lambda: orientations(np.eye(2), np.ones(2), 2), "constant on the circle"),
        (lambda: two_layer_escapes(A, W, X, E, 1), "linear_course is exact"),
        (lambda: two_layer_escapes(A, W, X, E, 2, 0.5), "above ρ"),
        (lambda: two_layer_escapes(A, W, X, np.zeros(9), 2), "h = 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
