"""τ of units: α^{D−2}t, in runs, stages, ends, files, figures and batches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_heads import LIMITS, heads, loss

import gflow


@pytest.fixture(scope="module")
def run():
    return gflow.simulate(heads(1e-20), loss, rtol=1e-6)


def test_stages_and_times_are_of_order_one(run):
    assert run.order == 3
    assert run.scale == pytest.approx(1e20)
    np.testing.assert_allclose([s.tau for s in run.stages()], LIMITS, rtol=1e-6)
    np.testing.assert_allclose(run.tau, run.t * 1e-20)
    assert "τ = 0 … 100.5" in str(run)
    middle = run.model(at=30.0)
    np.testing.assert_array_equal(middle.v.value, run.model(t=30.0 * run.scale).v.value)


def test_an_end_in_tau():
    part = gflow.simulate(heads(1e-20), loss, rtol=1e-6, tau1=20.0)
    assert part.status is gflow.Status.reached
    assert part.t[-1] == pytest.approx(2e21)
    assert len(part.stages()) == 2
    batch = gflow.simulate_batch(
        jax.tree.map(lambda *x: jnp.stack(x), *(heads(1e-20, seed) for seed in (3, 4))), loss,
        rtol=1e-6, tau1=20.0,
    )  # fmt: skip
    assert [r.order for r in batch] == [3, 3]
    assert batch[0].stages()[1].tau == pytest.approx(LIMITS[1], rel=1e-6)


def test_files_know_the_order(run, tmp_path):
    run.save(tmp_path / "run.nc")
    read = gflow.Trajectory.load(tmp_path / "run.nc", like=heads(1e-20))
    assert read.order == 3
    np.testing.assert_array_equal(read.tau, run.tau)
    assert [s.clock for s in read.stages()] == [s.clock for s in run.stages()]
    assert run.to_xarray()["tau"].attrs["units"] == "1/alpha"


def test_axes_are_named(run):
    ax = run.plot()
    ax = ax if hasattr(ax, "get_xlabel") else np.ravel(ax)[0]
    assert r"\alpha\,t" in ax.get_xlabel()


def test_another_scale_of_the_same_factors():
    moved = gflow.rescale(heads(1e-3), np.log(1e-20))
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(heads(1e-20)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_goes_on_has_no_tau_of_its_own(run):
    # of units that have moved the largest sets the scale, which is not that of the start
    part = gflow.simulate(heads(1e-8), loss, rtol=1e-6, t1=8e8)
    with pytest.raises(ValueError, match="units that a run has moved"):
        gflow.simulate(part.final, loss, tau1=20.0)
    after = gflow.simulate(part.final, loss, rtol=1e-6)
    assert np.isnan(after.log_alpha)
    with pytest.raises(ValueError, match="a run has moved"):
        _ = after.tau


@pytest.mark.slow
def test_other_orders():
    class Power(eqx.Module):
        w: gflow.Scaled

        def __call__(self):
            return self.w.value

    def of(power):
        def objective(model):
            return 0.5 * jnp.sum((model.w.value**power - 1.0) ** 2)

        return objective

    # w' = p w^{p−1}: T = 1/(p(p − 2)) at w = α
    for power in (3, 4, 5):
        model = Power(gflow.Scaled(jnp.ones(1), np.log(1e-9), units="w"))
        run = gflow.simulate(model, of(power), rtol=1e-9)
        assert run.order == power
        assert run.stages()[0].tau == pytest.approx(1 / (power * (power - 2)), rel=1e-7)
