"""The companion of a run: every step as two halves, or as many as it asks for."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_field import SOLVERS, both, exact, go, itself, known, numbers, signed

from gflow.integrate._halves import halved
from gflow.integrate._march import TERM
from gflow.solvers import ROCK4, Rodas5P, Switching


@eqx.filter_jit
def companion(field, solver, offset, t, kept, choice=()):
    open_end = jnp.zeros_like(offset), jnp.zeros_like(offset)
    return halved(itself, field, solver, open_end, offset, t, kept, choice)[:2]


@both
def test_the_companion_takes_every_step_as_two_halves(solver):
    field, offset = known(mirrored=True), 0.4
    steps = go(field, solver, 20.0, tol=1e-5, offset=offset, step=5.0)
    kept = np.asarray(steps.kept)
    states, frames = companion(field, SOLVERS[solver], jnp.array(offset), steps.t, steps.kept)
    second = np.array(states)
    second[:, 2] *= np.asarray(frames)
    assert np.sum(np.diff(np.asarray(frames)[kept]) != 0) > 0
    # attempts that were rejected leave it where it is
    rejected = np.flatnonzero(~kept[1:] & np.asarray(steps.tried)[1:]) + 1
    assert rejected.size
    np.testing.assert_array_equal(second[rejected], second[rejected - 1])
    # order five: local errors fall by 2⁵ in each half, 2⁴ together
    truth = exact(field, np.asarray(steps.t)[kept], offset)
    main, half = np.abs(signed(steps)[kept] - truth), np.abs(second[kept] - truth)
    assert np.max(half[:, 1]) < np.max(main[:, 1]) / 8
    assert np.max(half[:, 2]) < np.max(main[:, 2]) / 8
    assert np.max(main[:, 1]) > 1e-7


def test_the_companion_is_two_steps_of_the_solver():
    # taken by hand
    field = known()

    @jax.jit
    def step(a, b, y):
        return Rodas5P().step(TERM, a, b, y, (field, jnp.array(0.3)), None, False)[0]

    t = jnp.array([0.5, 0.5, 1.7])
    states, _ = companion(field, Rodas5P(), jnp.array(0.3), t, jnp.array([True, False, True]))
    y, expected = field.start(), []
    for a, b in [(0.0, 0.25), (0.25, 0.5), (0.5, 1.1), (1.1, 1.7)]:
        expected.append(y := step(jnp.array(a), jnp.array(b), y))
    np.testing.assert_allclose(states, np.stack(expected)[[1, 1, 3]], rtol=1e-13)


def test_the_halves_are_taken_by_the_method_of_the_step():
    # h·ρ of a half is below what makes Rodas5P give way, that of the step is above
    field = known((0.9, 2.0, 0.3), rate=60.0)
    solver = Switching(diffrax.Tsit5(), Rodas5P())
    steps = go(field, solver, 4.0, tol=1e-6)
    rows = np.flatnonzero(np.asarray(steps.kept))
    stiff = np.asarray(steps.choice)[rows]
    assert 0 < np.sum(stiff) < len(stiff)
    states, _ = companion(field, solver, jnp.array(0.0), steps.t, steps.kept, steps.choice)

    @eqx.filter_jit
    def step(method, a, b, y):
        inner = method.init(TERM, a, b, y, (field, jnp.array(0.0)))
        return method.step(TERM, a, b, y, (field, jnp.array(0.0)), inner, True)[0]

    y, a = field.start(), 0.0
    for i, choice in zip(rows, stiff, strict=True):
        method, b = solver.stiff if choice else solver.explicit, float(steps.t[i])
        middle = a + 0.5 * (b - a)
        y = step(method, *numbers(a, middle), y)
        y = step(method, *numbers(middle, b), y)
        a = b
        np.testing.assert_allclose(states[i], y, rtol=1e-12)


@pytest.mark.parametrize("patient", [False, True])
def test_the_companion_takes_over_nothing_that_belongs_to_another_time(patient):
    # ROCK4 has waited since the start while Tsit5 took the steps: its slope there is not that here
    field = known((0.9, 2.0, 0.3), rate=60.0)
    solver = Switching(diffrax.Tsit5(), ROCK4())
    steps = go(field, solver, 4.0, tol=1e-6)
    stiff = np.asarray(steps.choice)[np.asarray(steps.kept)]
    assert np.sum(stiff) > 0
    assert not stiff[0]
    tolerance = jnp.full(3, 1e-6), jnp.full(3, 1e-6)

    @eqx.filter_jit
    def halves(t, kept, choice):
        zero = jnp.array(0.0)
        return halved(itself, field, solver, tolerance, zero, t, kept, choice, patient)

    states, frames, missed = halves(steps.t, steps.kept, steps.choice)
    assert not missed
    second = np.array(states)
    second[:, 2] *= np.asarray(frames)
    np.testing.assert_allclose(
        second[np.asarray(steps.kept)], signed(steps)[np.asarray(steps.kept)], rtol=0, atol=3e-5
    )
