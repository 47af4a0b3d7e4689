"""The field of units: the flow itself, in any frame; halves, parts and batches of its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_heads import H, cubes, cubes_loss, heads, loss

import gflow
from gflow.flow._build import build_flow
from gflow.integrate._binding import bindings, bound
from gflow.parameters._base import trained_leaves


def flow_of(model, objective):
    flow = build_flow(model, objective)
    return bound(flow, bindings(trained_leaves(model)), np.zeros(1))


@pytest.mark.parametrize(("model", "objective"), [(heads(0.3), loss), (cubes(0.3), cubes_loss)])
def test_units_move_as_their_weights_do(model, objective):
    flow = flow_of(model, objective)
    for name, leaf in trained_leaves(model).items():
        np.testing.assert_allclose(flow.weights(flow.start())[name], leaf.value, rtol=1e-14)
    # directions of any length, and any clock
    rng = np.random.default_rng(0)
    state = flow.start() + 0.1 * rng.normal(size=flow.size)
    rates = flow.motion(jnp.zeros(()), state)
    _, weights = jax.jvp(flow.weights, (state,), (rates,))
    lapse = rates[-1] / flow.clockwork.k0
    _, forces = flow.forces(flow.weights(state))
    for name, g in forces.items():
        np.testing.assert_allclose(weights[name] / lapse, g, rtol=1e-12, atol=1e-15)


def test_a_frozen_unit_stays_and_the_others_do_not():
    flow = flow_of(heads(0.3), loss)
    frozen = np.arange(H) == 1
    clockwork = flow.clockwork
    now = type(clockwork)(**{**vars(clockwork), "frozen": jnp.asarray(frozen)})
    held = flow.framed((now, *flow.frame()[1:]))
    rates = np.asarray(held.motion(jnp.zeros(()), held.start()))[:-1]
    mine = frozen[flow.owner]
    assert np.all(rates[mine] == 0.0)
    assert np.all(rates[~mine] != 0.0)


def test_the_norm_of_a_direction_is_no_matter():
    flow = flow_of(heads(0.3), loss)
    state = flow.start()
    longer = state.at[: -1 - H].multiply(1.7).at[-1 - H : -1].add(-np.log(1.7))
    for one, other in zip(*(flow.weights(y).values() for y in (state, longer)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)
    np.testing.assert_allclose(flow.renormalised(longer), state, rtol=1e-13, atol=1e-15)


@pytest.mark.slow
def test_a_batch_is_its_runs():
    epsilons = (1e-3, 1e-20, 1e-60)
    models = [heads(e, seed) for seed, e in enumerate(epsilons)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
    batch = gflow.simulate_batch(stacked, loss, rtol=1e-6)
    assert not batch.failed
    ends = np.array([20 / e for e in epsilons])
    short = gflow.simulate_batch(stacked, loss, rtol=1e-6, t1=ends)
    assert [run.t[-1] for run in short] == ends.tolist()
    assert [s.name for s in short.status] == ["reached"] * 3
    for run, model in zip(batch, models, strict=True):
        alone = gflow.simulate(model, loss, rtol=1e-6)
        for one, other in zip(run.stages(), alone.stages(), strict=True):
            assert abs(one.t - other.t) <= one.error
            assert one.activated == other.activated
            assert one.error < 1e-5 * one.t
