"""Times and powers fitted over scales, held against SciPy, chance and a prediction."""

import numpy as np
import pytest
import scipy.stats
import small_sweeps

import gflow
import theory
from gflow.sweeps._lines import lines

SCALES = [-16.0, -24.0, -40.0, -60.0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    grid = {"log10_alpha": SCALES}
    out = tmp_path_factory.mktemp("fits") / "sweep"
    options = small_sweeps.OPTIONS | {"error_bars": True, "seeds": 2}
    return gflow.sweep(small_sweeps.build, grid, out=out, **options)


def test_lines_are_those_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    y[3, 2] = x[4, 0] = np.nan
    found = lines(x, y, np.zeros_like(y), 0.9)
    for k in range(5):
        there = np.isfinite(x[k]) & np.isfinite(y[k])
        one = scipy.stats.linregress(x[k, there], y[k, there])
        student = scipy.stats.t.ppf(0.95, there.sum() - 2)
        expected = (one.slope, one.intercept, student * one.stderr, student * one.intercept_stderr)
        np.testing.assert_allclose([part[k] for part in found[:4]], expected, rtol=1e-12)
        off = np.abs(y[k] - one.slope * x[k] - one.intercept)[there]
        assert found.misfit[k] == pytest.approx(off.max(), rel=1e-12)


def test_intervals_hold_what_they_say():
    """Of 4000 lines with noise, 80 % of the intervals have the true one, give or take chance."""
    rng = np.random.default_rng(1)
    x = np.broadcast_to(np.array([1.0, 2.0, 4.0, 7.0]), (4000, 4))
    found = lines(x, 3.0 * x - 2.0 + 0.1 * rng.normal(size=x.shape), np.zeros_like(x), 0.8)
    for value, error, true in (
        (found.slope, found.slope_error, 3.0),
        (found.intercept, found.intercept_error, -2.0),
    ):
        assert abs(np.mean(abs(value - true) < error) - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 4000)


def test_the_solvers_error_is_not_lost_where_points_lie_on_a_line():
    x, error = np.array([[0.0, 1.0, 2.0]]), np.array([[0.1, 0.2, 0.3]])
    found = lines(x, 2.0 * x + 1.0, error, 0.95)
    assert found.slope_error[0] == pytest.approx(0.5 * (0.1 + 0.3), rel=1e-9)
    worst = max(
        abs(np.polyfit(x[0], 2.0 * x[0] + 1.0 + s * error[0], 1)[1] - 1.0)
        for s in np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    )
    assert found.intercept_error[0] == pytest.approx(worst, rel=1e-9)


def test_too_few_points_fix_nothing():
    x = np.array([[1.0, 2.0, np.nan], [1.0, np.nan, np.nan], [2.0, 2.0, 2.0]])
    found = lines(x, x, np.zeros_like(x), 0.95)
    assert found.slope[0] == pytest.approx(1.0)
    assert np.isnan(found.slope_error[0])
    assert np.isnan(found.slope[1:]).all()


def test_offsets_are_those_predicted(runs):
    found = runs.offsets()
    assert found["T"].dims == ("seed", "stage")
    for seed in (0, 1):
        predicted = theory.gradual_rank.predict(*small_sweeps.build(-16.0, seed))
        for k, stage in enumerate(predicted.stages):
            row = found.isel(seed=seed, stage=k)
            # beside T and C stands √α, at most 1e-8
            assert abs(float(row["T"]) - stage.tau) < 1e-6
            assert abs(float(row["C"]) - stage.offset) < 1e-5
            assert abs(float(row["T"]) - stage.tau) < float(row["T_error"])
            assert abs(float(row["C"]) - stage.offset) < float(row["C_error"])
    assert (found["misfit"] < 1e-5).all()
    assert found["C"].attrs["units"] == "flow time"
    narrow = runs.offsets(0.5)
    assert (narrow["C_error"] < found["C_error"]).all()


def test_a_fit_sees_what_is_no_line(runs):
    """The same times with one of them moved: the interval and the misfit grow by it."""
    stages, log_alpha = runs.stages(), runs.runs()["log_alpha"]
    from gflow.sweeps._fits import fitted_offsets

    moved = stages.copy(deep=True)
    moved["t"][1] += 0.1
    moved["tau"][1] = moved["t"][1] / -log_alpha[1]
    found = fitted_offsets(moved, log_alpha, 0.95, ("tau", "flow time"))
    assert (found["misfit"] > 0.03).all()
    assert (found["C_error"] > 0.1).all()


def test_exponents(runs):
    log_alpha = runs.runs()["log_alpha"]
    array = 3.0 * np.exp(1.5 * log_alpha)
    found = runs.exponents(array)
    np.testing.assert_allclose(found["exponent"], 1.5, rtol=1e-12)
    np.testing.assert_allclose(found["log_factor"], np.log(3.0), rtol=1e-9)
    assert (found["exponent_error"] < 1e-9).all()
    with pytest.raises(ValueError, match=r"not all of .* have a log"):
        runs.exponents(array, along="log10_alpha")
    with pytest.raises(ValueError, match="along = 'alpha': a setting of"):
        runs.exponents(array, along="alpha")
    with pytest.raises(ValueError, match="no 'log10_alpha'"):
        runs.exponents(array.mean("log10_alpha"))
    with pytest.raises(ValueError, match="between 0 and 1"):
        runs.offsets(95)


def test_one_scale_is_refused(tmp_path):
    runs = gflow.sweep(
        small_sweeps.build, {"log10_alpha": [-8.0]}, out=tmp_path, **small_sweeps.OPTIONS
    )
    with pytest.raises(ValueError, match="α must differ along one setting, here along nothing"):
        runs.offsets()
