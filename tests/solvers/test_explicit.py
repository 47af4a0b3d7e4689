"""Dopri8 and Tsit5 in the lean step: the very steps of Diffrax's."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow

PAIRS = [(gflow.solvers.Dopri8, diffrax.Dopri8), (gflow.solvers.Tsit5, diffrax.Tsit5)]
TERM = diffrax.ODETerm(lambda t, y, args: {"a": jnp.sin(t) * y["b"], "b": -y["a"] * args})
START = {"a": jnp.array([[1.0, 0.5]]), "b": jnp.array([[0.2, -1.0]])}
ARGS = jnp.array([[2.0, 1.0]])


def solved(solver, t0=0.0, t1=7.0, **options):
    controller = diffrax.PIDController(rtol=1e-9, atol=1e-9)
    return diffrax.diffeqsolve(
        TERM, solver, t0, t1, None, START, args=ARGS,
        stepsize_controller=controller, **options,
    )  # fmt: skip


@pytest.mark.parametrize(("own", "theirs"), PAIRS)
@pytest.mark.parametrize("span", [(0.0, 7.0), (7.0, 0.0)])
def test_states_steps_and_dense_output_are_those_of_diffrax(own, theirs, span):
    one, two = (
        solved(solver(), *span, saveat=diffrax.SaveAt(t1=True, dense=True))
        for solver in (own, theirs)
    )
    for key in ("num_accepted_steps", "num_rejected_steps"):
        assert one.stats[key] == two.stats[key]
    # some fifty steps of states up to 60, with coefficients of up to 30: 2e-11 of rounding
    for t in (1.234, 5.0):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-11),
            (one.ys, one.evaluate(t)),
            (two.ys, two.evaluate(t)),
        )


@pytest.mark.parametrize(("own", "theirs"), PAIRS)
def test_the_slope_of_the_step_before_is_dropped_where_there_was_a_jump(own, theirs):
    args, zero = ARGS, jnp.zeros(())
    ends = {}
    for name, solver in (("own", own()), ("theirs", theirs())):
        # Diffrax's own loop wraps the terms before it hands them on
        state = solver.init(TERM, 0.0, 0.1, START, args)
        state = jax.tree.map(jnp.asarray, state)
        _, _, _, state, _ = solver.step(TERM, zero, 0.1, START, args, state, jnp.array(False))
        moved = jax.tree.map(lambda x: 3.0 * x, START)
        for jumped in (False, True):
            y, error, *_ = solver.step(TERM, 0.1, 0.2, moved, args, state, jnp.array(jumped))
            ends[name, jumped] = y, error
    for jumped in (False, True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-14),
            ends["own", jumped],
            ends["theirs", jumped],
        )
    assert not np.allclose(ends["own", True][0]["a"], ends["own", False][0]["a"], atol=1e-6)


def test_a_batch_is_its_members():
    solver = gflow.solvers.Dopri8()

    def at(scale):
        start = jax.tree.map(lambda x: scale * x, START)
        return diffrax.diffeqsolve(
            TERM, solver, 0.0, 3.0, None, start, args=ARGS,
            stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
        ).ys["a"]  # fmt: skip

    scales = jnp.array([1.0, 10.0, 100.0])
    together = eqx.filter_jit(jax.vmap(at))(scales)
    alone = np.stack([np.asarray(at(s)) for s in scales])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)
