"""Residuals in error bars, bands over runs, and figures that tell leaves apart without colour."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import gflow
import theory
from theory import plot
from theory.comparison._claims import Claim


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def loss(m):
    return 0.5 * jnp.sum(m["w"] ** 2)


@pytest.fixture(scope="module")
def flow():
    """w = w₀e^{−t}, from five w₀."""
    start = {"w": jnp.array([[0.5], [1.0], [1.5], [2.0], [4.0]])}
    return gflow.simulate_batch(start, loss, t1=2.0, save=np.linspace(0.0, 2.0, 101))


def claim(key, measured, bar, allowance, verdict):
    return Claim(key, 1.0, measured, bar, allowance, "", "", verdict, "")


@pytest.fixture(scope="module")
def result(flow):
    general = (
        claim("a", 1.5, 0.25, 0.0, "confirmed"),
        claim("b", -9.0, 0.1, 0.5, "refuted"),
        claim("c", 1.2, 0.1, np.inf, "undecided"),
        claim("without a bar", 1.0, 0.0, 0.0, "confirmed"),
        Claim("in words", "x", "y", 0.0, 0.0, "", "", "refuted", ""),
    )
    curve = theory.Curve("loss", lambda t: np.exp(-2.0 * t))
    return theory.Comparison([], flow[0], theory.Prediction.of(curve), general)


def test_a_residual_is_the_miss_over_the_bar(result):
    ax = plot.residuals(result)
    keys = [tick.get_text() for tick in ax.get_xticklabels()]
    claims = {c.key: c for c in result.claims}
    drawn = {k: line.get_xydata() for line in ax.lines for k in [line.get_label()]}
    found = {}
    for verdict in ("confirmed", "undecided", "refuted"):
        for x, y in drawn.get(verdict, []):
            found[keys[int(x)]] = (verdict, y)
    assert set(found) == set(keys) == {"a", "b", "c"}
    for key, (verdict, y) in found.items():
        assert verdict == claims[key].verdict
        assert y == pytest.approx((claims[key].measured - claims[key].predicted) / claims[key].bar)


def test_what_is_allowed_is_grey_around_zero(result):
    ax = plot.residuals(result)
    shown = [c for c in result.claims if c.bar > 0 and np.isfinite(c.miss)]
    for claim, patch in zip(shown, ax.patches, strict=True):
        assert patch.get_y() == pytest.approx(-0.5 * patch.get_height())
        if np.isfinite(claim.allowance):
            assert 0.5 * patch.get_height() == pytest.approx(2.0 + claim.allowance / claim.bar)


def test_without_bars_there_is_no_residual(flow, result):
    flat = dataclasses.replace(flow[0], error={})
    curve = result.prediction.curves[0]
    with pytest.raises(ValueError, match="error_bars=True"):
        plot.residual_curve(flat, curve)
    with pytest.raises(ValueError, match="error_bars=True"):
        plot.residuals(dataclasses.replace(result, general=result.general[3:]))


def points(ax):
    (found,) = (line for line in ax.lines if line.get_marker() == ".")
    return found.get_xdata(), found.get_ydata()


def test_a_curve_of_residuals(flow):
    traj = flow[1]
    shifted = traj.loss - 3.0 * traj.error["loss"]
    curve = theory.Curve("loss", lambda t: np.interp(t, traj.t, shifted))
    _, y = points(plot.residual_curve(traj, curve))
    sure = traj.error["loss"] > 1e-12
    assert sure.sum() > 10
    np.testing.assert_allclose(y[sure], 3.0, rtol=1e-2)
    part = dataclasses.replace(curve, regime=(0.5, 1.0))
    x, _ = points(plot.residual_curve(traj, part))
    assert x.min() >= 0.5
    assert x.max() <= 1.0


def test_a_band_has_the_quantiles_of_the_runs(flow):
    def weight(r):
        return r.observables["w"][:, 0]

    ax = plot.band(flow, weight, quantiles=(0.0, 0.5, 1.0), label="w")
    low, high, middle = ax.lines
    decay = np.exp(-middle.get_xdata())
    for line, start in ((low, 0.5), (middle, 1.5), (high, 4.0)):
        np.testing.assert_allclose(line.get_ydata(), start * decay, rtol=1e-4)
    assert middle.get_label() == "w"
    assert ax.get_xlabel() == "flow time $t$"
    assert "5 runs" in plot.band(flow).get_legend().get_texts()[0].get_text()


def test_a_band_refuses_what_is_no_number_a_time(flow):
    runs = list(flow)
    with pytest.raises(ValueError, match=r"did not record 'x'.*'loss'"):
        plot.band(runs, "x")
    with pytest.raises(ValueError, match="one number a time"):
        plot.band(runs, "w")
    with pytest.raises(ValueError, match="no run"):
        plot.band([])
    with pytest.raises(ValueError, match="three shares in order"):
        plot.band(runs, quantiles=(0.9, 0.5, 0.1))


def test_entries_have_the_names_they_are_given(flow):
    ax = gflow.plot.weights(flow[0], "w", names={0: "age"})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["age"]


@pytest.mark.slow
def test_two_leaves_differ_without_colour():
    key_query, value = (
        gflow.Factored.small((2, 2), 1, alpha=1e-8, key=key)
        for key in jax.random.split(jax.random.key(0))
    )
    start = {"kq": key_query, "vo": value}

    def unequal(m):
        return jnp.sum((m["kq"].value - 1.0) ** 2) + 0.5 * jnp.sum((m["vo"].value + 1.0) ** 2)

    prediction = theory.gradual_rank.predict(start, unequal)
    traj = gflow.simulate(start, unequal, tau1=1.3 * prediction.stages[-1].tau, error_bars=False)
    names = {"kq": "key–query"}
    ax = plot.ranks_with_times(traj, prediction, labels=names)
    lines = [line for line in ax.lines if "simulated" in str(line.get_label())]
    assert [line.get_label() for line in lines] == ["key–query, simulated", "vo, simulated"]
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert lines[0].get_linewidth() > lines[1].get_linewidth()
    jumps = np.concatenate([x.get_xdata() for x in ax.lines if x.get_marker() == "o"])
    simulated = np.concatenate(
        [line.get_xdata()[1:][np.diff(line.get_ydata()) > 0] for line in lines]
    )
    np.testing.assert_allclose(np.sort(jumps), np.sort(simulated), atol=0.02 * traj.tau[-1])
    spectrum = plot.spectrum_with_times(traj, prediction, logarithmic=True, labels=names)
    assert r"$\sqrt{\alpha}$ " in [text.get_text() for text in spectrum.texts]
    heights = [line.get_ydata()[0] for line in spectrum.lines if len(line.get_ydata()) == 2]
    assert pytest.approx(-4.0) in heights
