"""What is read of a sweep: the runs themselves, matched by what switches, beside a prediction."""

import gc
import math
import types

import jax
import numpy as np
import pytest
from small_sweeps import GRID, build, sweep

import gflow
import theory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("read") / "sweep", error_bars=True)


@pytest.fixture(scope="module")
def alone():
    """Two runs by themselves, by setting."""
    keys = ((0, 1), (1, 2))
    return {
        (i, seed): gflow.simulate(*build(GRID["log10_alpha"][i], seed), tau1=1.5)
        for i, seed in keys
    }


def test_a_sweep_is_its_runs(runs, alone):
    stages, table = runs.stages(), runs.runs()
    assert stages["t"].dims == ("log10_alpha", "seed", "stage")
    assert stages["t"].attrs["units"] == "flow time"
    assert list(stages["stage"].values) == ["+weight[1]", "+weight[0]"]
    for (i, seed), run in alone.items():
        own = gflow.align_stages([run])
        for k, label in enumerate(own.labels):
            found = stages.isel(log10_alpha=i).sel(seed=seed, stage=label)
            assert float(found["t"]) == pytest.approx(own.t[0, k], rel=1e-6)
            assert float(found["tau"]) == pytest.approx(own.tau[0, k], rel=1e-6)
            assert abs(float(found["t"]) - own.t[0, k]) < float(found["error"]) + own.error[0, k]
        at = table.isel(log10_alpha=i).sel(seed=seed)
        assert at["status"] == run.status.name
        assert float(at["log_alpha"]) == pytest.approx(run.log_alpha, rel=1e-12)
        assert float(at["t"]) == pytest.approx(run.t[-1], rel=1e-12)
        curve = runs.curve(tau=[0.2, 0.9, 1.4, 1.6]).isel(log10_alpha=i).sel(seed=seed).values
        expected = [run.record_at([tau * run.scale])["loss"][0] for tau in (0.2, 0.9, 1.4)]
        np.testing.assert_allclose(curve[:3], expected, rtol=0.03, atol=1e-9)
        assert np.isnan(curve[3])
        final = runs.final("weight").isel(log10_alpha=i).sel(seed=seed)
        np.testing.assert_allclose(final.values, run.final.weight.value, rtol=1e-6)


def test_bands_are_quantiles_over_seeds(runs):
    tau = runs.stages()["tau"]
    found = runs.band(tau, (0.25, 0.5))
    assert found.dims == ("quantile", "log10_alpha", "stage")
    expected = np.quantile(tau.values, (0.25, 0.5), axis=1)
    np.testing.assert_allclose(found.values, expected, rtol=1e-14)
    hidden = tau.where(tau["seed"] > 0)
    np.testing.assert_allclose(
        runs.band(hidden, [0.5]).values[0], np.median(tau.values[:, 1:], axis=1), rtol=1e-14
    )
    assert np.isnan(runs.band(tau.where(tau["seed"] > 9), [0.5]).values).all()
    with pytest.raises(ValueError, match="no seed to go over"):
        runs.band(tau.median("seed"))
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        runs.band(tau, (0.5, 1.5))


def test_deviations_from_a_prediction(runs):
    """T + C/Λ is within a power of α of the measured time; T alone misses it by C/Λ."""

    def predict(log10_alpha, seed):
        prediction = theory.gradual_rank.predict(*build(log10_alpha, seed))
        return prediction.at(log10_alpha * math.log(10.0))

    found = runs.deviations(predict)
    assert float(abs(found["deviation"]).sel(log10_alpha=-16.0).max()) < 1e-7
    assert float(found["unpredicted"].sum()) == float(found["unseen"].sum()) == 0.0

    def less(**setting):
        whole = predict(**setting)
        return types.SimpleNamespace(stages=whole.stages[:1], tau=whole.tau[:1] + 0.1)

    shifted = runs.deviations(less)
    assert np.isnan(shifted["deviation"].sel(stage="+weight[0]").values).all()
    last = shifted["deviation"].sel(log10_alpha=-16.0, stage="+weight[1]")
    np.testing.assert_allclose(last.values, -0.1, atol=1e-7)
    assert float(shifted["unpredicted"].sum()) == 8.0


def test_what_is_not_kept_is_said(runs):
    with pytest.raises(ValueError, match="keeps no curve 'balance', only 'loss'"):
        runs.curve("balance", tau=[1.0])
    with pytest.raises(ValueError, match="give tau or t"):
        runs.curve()
    with pytest.raises(ValueError, match="has a leaf 'kq'"):
        runs.final("kq")
    with pytest.raises(ValueError, match="run = 8: a number from 0 to 7"):
        runs.setting(8)


def test_a_figure_of_bands(runs):
    ax = runs.plot(tau=np.linspace(0.0, 1.4, 50))
    assert len(ax.get_lines()) == 2
    assert len({str(line.get_linestyle()) for line in ax.get_lines()}) == 2
    middle = ax.get_lines()[1].get_ydata()
    expected = np.median(runs.curve(tau=[1.4]).values[1, :, 0])
    assert middle[-1] == pytest.approx(expected, rel=1e-12)
    assert ax.get_xlabel() == r"$\tau$"


def test_it_shows_itself_and_tells_how_far_it_is(tmp_path):
    told = []
    runs = sweep(tmp_path, progress=told.append)
    assert [p.done for p in told] == [0, 2, 4, 6, 8]
    assert math.isnan(told[0].left)
    assert told[-1].left == 0.0
    assert told[1].total == 8
    assert "8 runs, 4 seeds a setting, in 4 files" in repr(gflow.open_sweep(tmp_path))
    assert runs.seeds == [0, 1, 2, 3]


def test_no_run_stays_in_memory(tmp_path):
    def alive():
        return sum(type(x) is gflow.Trajectory for x in gc.get_objects())

    gc.collect()
    before = alive()
    sweep(tmp_path)
    assert alive() <= before


@pytest.mark.slow
def test_shapes_and_arguments_of_their_own(tmp_path):
    """Runs of different shapes in one chunk, each with its own end."""

    def shaped(p, seed):
        weight = gflow.Hadamard.small(p, log10_alpha=-8.0, key=jax.random.key(seed))
        loss = gflow.objectives.SquaredLoss(np.eye(p), 1.0 + np.arange(p), "half_sum")
        return gflow.models.DiagonalLinear(weight), loss, {"tau1": 1.5 + 0.1 * seed}

    grid = {"p": [2, 3]}
    runs = gflow.sweep(shaped, grid, out=tmp_path, seeds=2, progress=False)
    assert list(runs.stages()["stage"].values) == ["+weight[2]", "+weight[1]", "+weight[0]"]
    assert runs.runs()["stages"].values.tolist() == [[2, 2], [3, 3]]
    scale = 8.0 * math.log(10.0)
    np.testing.assert_allclose(runs.runs()["t"].values, [[1.5 * scale, 1.6 * scale]] * 2)
    final = runs.final("weight")
    assert np.isnan(final.sel(p=2).values[:, 2]).all()
    np.testing.assert_allclose(final.sel(p=3).values, [[1.0, 2.0, 3.0]] * 2, rtol=1e-3)
