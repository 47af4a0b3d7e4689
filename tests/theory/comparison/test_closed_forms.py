"""Curves and numbers of a user's own beside a run: right ones confirmed, wrong ones refuted."""

import dataclasses
import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
import theory
from theory import Curve, Number, Prediction, Reading
from theory.comparison._claims import VERDICTS

START = np.array([2.0, -0.5, 1.0])
TARGET = np.array([0.5, 1.5, 1.0])
RATE = np.array([1.0, 0.3, 0.0])


class Weights(eqx.Module):
    w: jnp.ndarray


class Bowl(eqx.Module):
    """½ Σ rate·(w − target)²: every weight relaxes by itself, w' = −rate·(w − target)."""

    target: jnp.ndarray
    rate: jnp.ndarray

    def __call__(self, model):
        return 0.5 * jnp.sum(self.rate * (model.w - self.target) ** 2)


MODEL, BOWL = Weights(jnp.asarray(START)), Bowl(jnp.asarray(TARGET), jnp.asarray(RATE))


@functools.cache
def run(rtol=1e-8, error_bars=True, t1=6.0):
    return gflow.simulate(
        MODEL, BOWL, t1=t1, rtol=rtol, error_bars=error_bars,
        observables={"twice": lambda m: 2.0 * m.w[0]},
    )  # fmt: skip


def weight(t):
    return TARGET + (START - TARGET) * np.exp(-RATE * np.asarray(t)[..., None])


def loss(t):
    return 0.5 * np.sum(RATE * (weight(t) - TARGET) ** 2, axis=-1)


def judged(curve, trajectory=None):
    table = theory.compare(trajectory or run(), Prediction.of(curve))
    (row,) = table.rows
    assert table.passed == (row.verdict == "confirmed") == row.passed
    return row


RIGHT = [
    Curve("loss", loss),
    Curve("w", weight),
    Curve("twice", lambda t: 2.0 * weight(t)[:, 0]),
    Curve(
        "sum", lambda t: weight(t).sum(axis=-1), read=theory.from_weights(lambda w: w["w"].sum(1))
    ),
]


@pytest.mark.parametrize("curve", RIGHT, ids=lambda c: c.label)
def test_an_exact_curve_is_confirmed_and_each_that_is_not_it_is_refuted(curve):
    assert judged(curve).verdict == "confirmed"

    def changed(value):
        return judged(dataclasses.replace(curve, value=value)).verdict

    f = curve.value
    wrong = {
        "a sign": lambda t: -f(t),
        "a factor": lambda t: 2.0 * f(t),
        "a little": lambda t: f(t) * (1.0 + 1e-5),
        "a constant": lambda t: f(t) + 1e-5,
        "a clock": lambda t: f(2.0 * t),
        "a shift": lambda t: f(t + 1e-3),
        "all but the end": lambda t: f(np.full(t.shape, t[-1])),
        "all but the start": lambda t: f(np.full(t.shape, t[0])),
        "the middle": lambda t: f(t) + (f(t) - f(t)[:1]) * (f(t) - f(t)[-1:]) * 1e-2,
    }
    assert {what: changed(value) for what, value in wrong.items()} == dict.fromkeys(
        wrong, "refuted"
    )


def test_the_row_is_of_the_time_and_entry_that_decide():
    def bump(t):
        out = weight(t)
        out[:, 1] += 0.1 * np.exp(-((t - 3.0) ** 2))
        return out

    row = judged(Curve("w", bump))
    i = int(np.argmax(np.exp(-((run().t - 3.0) ** 2))))
    assert row.where == f"t = {run().t[i]:.6g}, [1]"
    assert row.measured == run().observables["w"][i, 1]
    assert row.predicted == pytest.approx(row.measured + 0.1, abs=0.02)
    assert row.error == run().error["w"][i, 1]
    assert row.z == pytest.approx((row.measured - row.predicted) / row.error)


@pytest.mark.parametrize("part", ["value", "tolerance"])
def test_what_is_not_known_is_open_and_does_not_hide_what_is_wrong(part):
    def lacking(read):
        return lambda t: np.where(t[:, None] > 5.0, np.nan, read(t))

    known = {"value": weight, "tolerance": lambda t: np.full((len(t), 3), 1e-6)}
    known[part] = lacking(known[part])
    row = judged(Curve("w", known["value"], known["tolerance"], "a guess"))
    assert row.verdict == "undecided"
    assert "does not give it" in row.claims[0].reason or "not known" in row.claims[0].reason
    wrong = judged(Curve("w", lambda t: -known["value"](t), known["tolerance"], "a guess"))
    assert wrong.verdict == "refuted"


def test_a_bar_wider_than_what_is_to_be_resolved_confirms_nothing():
    trajectory = run()
    wide = Reading(trajectory.observables["w"], np.full((len(trajectory.t), 3), 0.05))
    assert judged(Curve("w", weight, read=lambda _: wide)).verdict == "undecided"
    assert (
        judged(Curve("w", lambda t: 1.02 * weight(t), read=lambda _: wide)).verdict == "undecided"
    )
    assert judged(Curve("w", lambda t: -weight(t), read=lambda _: wide)).verdict == "refuted"
    # one entry at one time is enough
    bars = np.array(trajectory.error["w"])
    bars[len(bars) // 2, 2] = 0.05
    one = Reading(trajectory.observables["w"], bars)
    row = judged(Curve("w", weight, read=lambda _: one))
    assert row.verdict == "undecided"
    assert row.where.endswith("[2]")
    assert "a tighter rtol" in row.claims[0].reason


def test_a_run_without_bars_can_refute_only():
    bare = run(error_bars=False)
    row = judged(Curve("w", weight), bare)
    assert row.verdict == "undecided"
    assert "error_bars=True" in row.claims[0].reason
    assert judged(Curve("w", lambda t: -weight(t)), bare).verdict == "refuted"


def test_a_tolerance_lets_pass_what_it_says_and_no_more():
    def near(t):
        return weight(t) + 1e-3 * np.exp(-t)[:, None]

    exact = judged(Curve("w", near))
    assert exact.verdict == "refuted"
    for tolerance in (1.1e-3, lambda t: 1.1e-3 * np.exp(-t), lambda t: np.full((len(t), 3), 2e-3)):
        assert judged(Curve("w", near, tolerance, "the next order")).verdict == "confirmed"
    low = judged(Curve("w", near, lambda t: 0.4e-3 * np.exp(-t), "the next order"))
    assert low.verdict == "refuted"
    # between once and twice what is allowed nobody can tell, and above a share of it neither
    assert judged(Curve("w", near, 0.7e-3, "the next order")).verdict == "undecided"
    loose = Curve("w", near, 0.1, "the next order")
    assert judged(loose).verdict == "undecided"
    assert judged(dataclasses.replace(loose, resolves=0.1)).verdict == "confirmed"
    wrong = dataclasses.replace(loose, value=lambda t: weight(2.0 * t), resolves=0.1)
    assert judged(wrong).verdict == "refuted"


def test_a_curve_that_does_not_move_in_the_run_says_nothing():
    still = Curve("twice", lambda t: np.where(t > 10.0, 5.0, 4.0))
    never = gflow.simulate(
        eqx.tree_at(lambda m: m.w, MODEL, jnp.asarray(TARGET)), BOWL, t1=1.0,
        observables={"twice": lambda m: 4.0 + 0.0 * m.w[0]},
    )  # fmt: skip
    row = judged(still, never)
    assert row.verdict == "undecided"
    assert "does not move" in row.claims[0].reason
    assert judged(dataclasses.replace(still, constant=True), never).verdict == "confirmed"
    wrong = dataclasses.replace(still, constant=True, value=lambda t: np.full(t.shape, 4.001))
    assert judged(wrong, never).verdict == "refuted"


def test_zero_needs_a_size():
    def third(run):
        return Reading(run.observables["w"][:, 2] - 1.0, run.error["w"][:, 2] + 1e-9)

    def sized(run):
        return Reading(*third(run)[:2], np.abs(run.observables["w"]).sum(axis=-1))

    zero = Curve("gone", lambda t: np.zeros(t.shape), read=third, constant=True)
    row = judged(zero)
    assert row.verdict == "undecided"
    assert "size" in row.claims[0].reason
    assert judged(dataclasses.replace(zero, read=sized)).verdict == "confirmed"
    off = dataclasses.replace(zero, read=sized, value=lambda t: np.full(t.shape, 1e-7))
    assert judged(off).verdict == "refuted"


@pytest.mark.slow
def test_times_that_step_over_what_moves_confirm_nothing():
    # a weight that only decays is stepped over in a few steps of the gauge
    model = gflow.models.FactoredLinear.small((4, 6), 2, log_alpha=-1.0, key=jax.random.key(0))
    decayed = gflow.simulate(model, lambda m: 0.0 * jnp.sum(m.matrix), t1=20.0, decay=0.1)
    start = np.asarray(model.matrix)

    def shrinks(t):
        return np.exp(-0.2 * t)[:, None, None] * start

    def waits(t):  # equal at the steps of the run only
        between = np.min(np.abs(t[:, None] - decayed.t), axis=1) > 0.0
        return shrinks(t) + 0.1 * between[:, None, None]

    sizes = np.exp(-0.2 * decayed.t)
    assert np.max(-np.diff(sizes)) > 0.5
    # with its flow the run is looked at in between, without it nothing can be said
    assert judged(Curve("weight", shrinks), decayed).verdict == "confirmed"
    assert judged(Curve("weight", waits), decayed).verdict == "refuted"
    row = judged(Curve("weight", shrinks), dataclasses.replace(decayed, resolver=None))
    assert row.verdict == "undecided"
    assert "save=" in row.claims[0].reason


def test_a_regime_is_judged_and_nothing_outside():
    def half(t):
        return np.where(t[:, None] <= 3.0, weight(t), 7.0)

    assert judged(Curve("w", half, regime=(0.0, 3.0))).verdict == "confirmed"
    assert judged(Curve("w", half, regime=(0.0, 3.5))).verdict == "refuted"
    late = judged(Curve("w", half, regime=(100.0, 200.0)))
    assert late.verdict == "undecided"
    assert "longer run" in late.claims[0].reason


@pytest.mark.parametrize(
    ("measured", "bar", "verdict"),
    [
        (0.5, 1e-4, "confirmed"),
        (0.5001, 1e-4, "confirmed"),
        (0.51, 1e-4, "refuted"),
        (-0.5, 1e-4, "refuted"),
        (1.0, 1e-4, "refuted"),
        (0.5, 0.1, "undecided"),
        (0.5, math.nan, "undecided"),
        (math.nan, 0.0, "undecided"),
        (-0.5, math.nan, "refuted"),
    ],
)
def test_numbers_are_judged_by_their_bar(measured, bar, verdict):
    number = Number("exponent", 0.5, lambda _: (measured, bar))
    assert theory.compare(run(), Prediction.of(number)).rows[0].verdict == verdict


def test_counts_are_met_exactly_and_nothing_predicted_is_open():
    cases = {(3, 3): "confirmed", (3, 2): "refuted", (0, 0): "confirmed", (0, 1): "refuted"}
    for (predicted, measured), verdict in [*cases.items(), ((math.nan, 2), "undecided")]:
        number = Number("rank", predicted, lambda _, m=measured: (m, 0.0))
        assert theory.compare(run(), Prediction.of(number)).rows[0].verdict == verdict
    small = Number("gap", 0.0, lambda _: (1e-9, 1e-9))
    assert theory.compare(run(), Prediction.of(small)).rows[0].verdict == "undecided"
    small = dataclasses.replace(small, size=1.0)
    assert theory.compare(run(), Prediction.of(small)).rows[0].verdict == "confirmed"


def everything():
    number = Number("half-life", math.log(2.0), lambda _: (math.log(2.0) + 1e-6, 1e-6), unit="t")
    return Prediction.of(*RIGHT, number, source="a note", made_from=(MODEL, BOWL))


def test_the_table_the_frame_and_the_figure_have_every_part():
    table = theory.compare(run(), everything())
    assert table.passed
    assert [row.part for row in table.rows] == ["loss", "w", "twice", "sum", "half-life"]
    assert [row.kind for row in table.rows] == ["curve"] * 4 + ["number"]
    assert table.counts == {"confirmed": len(table.claims), "undecided": 0, "refuted": 0}
    text = str(table).splitlines()
    assert text[0] == "t = 0 … 6; a note"
    assert text[-1] == f"{len(table.claims)} confirmed, 0 undecided, 0 refuted"
    for line, row in zip(text[3:-1], table.rows, strict=True):
        assert line.startswith(row.part)
        assert line.endswith("confirmed")
    frame = table.to_dataframe()
    assert frame.part.tolist() == [row.part for row in table.rows]
    assert frame.measured.tolist() == [row.measured for row in table.rows]
    assert table.to_xarray().verdict.sel(part="w").item() == "confirmed"
    axes = table.plot()
    assert [ax.get_ylabel() for ax in axes] == ["loss", "w", "twice", "sum", "measured / predicted"]
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), run().loss)
    np.testing.assert_array_equal(axes[0].lines[1].get_ydata(), loss(run().t))
    assert "half-life    0.69314718 t " in str(everything())
    drawn = everything().plot(t=[0.0, 1.0, 2.0])
    np.testing.assert_array_equal(drawn[1].lines[1].get_ydata(), weight([0.0, 1.0, 2.0])[:, 1])


def test_what_is_open_or_refuted_is_explained_by_a_legend():
    wrong = Prediction.of(Curve("w", lambda t: -weight(t)), Number("n", 1, lambda _: (math.nan, 0)))
    text = str(theory.compare(run(), wrong))
    for verdict in ("undecided", "refuted"):
        assert f"({verdict}: {VERDICTS[verdict]})" in text
        assert f"\n{verdict}: " in text
    assert "confirmed:" not in text


def test_a_prediction_of_another_problem_is_told_apart():
    other = Bowl(jnp.asarray(TARGET + 1e-3), jnp.asarray(RATE))
    moved = Weights(jnp.asarray(START + 1e-3))
    for made_from, decay, key in (
        ((MODEL, other), 0.0, "start.data"),
        ((moved, BOWL), 0.0, "start.factors"),
        ((MODEL, BOWL), 0.1, "start.decay"),
    ):
        table = theory.compare(
            run(), Prediction.of(Curve("w", weight), made_from=made_from, decay=decay)
        )
        assert {c.key: c.verdict for c in table.claims}[key] == "refuted"
        assert table.rows[0].verdict == "confirmed"
        assert not table.passed


@pytest.mark.slow
def test_stages_and_curves_in_one_prediction():
    objective = gflow.objectives.SquaredLoss(
        jnp.diag(jnp.array([2.0, 1.0])), jnp.array([2.0, 1.0]), "half_sum"
    )
    logs = {"log_s": -70.0 + jnp.log(jnp.array([1.0, 1.0])), "log_d": jnp.full(2, -70.3)}
    model = gflow.models.DiagonalLinear(gflow.Hadamard.from_scales(**logs, log_alpha=-70.0))
    trajectory = gflow.simulate(model, objective, tau1=2.0)
    path = theory.gradual_rank.predict(model, objective)
    at = path.at(-70.0)
    curve = Curve("loss", lambda t: at.loss(t / 70.0), 1e-6, "a power of α")
    both = dataclasses.replace(path, curves=(curve,))
    table = theory.compare(trajectory, both)
    assert table.passed
    assert both.parts == (*path.stages, curve)
    assert [type(row).__name__ for row in table.rows] == ["Row", "Row", "ClosedFormRow"]
    frame, data = table.to_dataframe(), table.to_xarray()
    assert frame.verdict.tolist() == ["confirmed"] * 3
    assert data.part.values.tolist() == ["stage 1", "stage 2", "loss"]
    wrong = dataclasses.replace(curve, value=lambda t: at.loss(t / 71.0))
    table = theory.compare(trajectory, dataclasses.replace(path, curves=(wrong,)))
    assert [row.verdict for row in table.rows] == ["confirmed", "confirmed", "refuted"]
    assert not table.passed


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (Curve("nothing", loss), r"'nothing', which this run did not record. It has 'loss', 'w'"),
        (Curve("w", loss), r"has shape \(\d+,\) at \d+ times, where the run has \(\d+, 3\)"),
        (Curve("loss", weight), r"where the run has \(\d+,\)"),
        (Curve("loss", lambda t: 1.0), r"has shape \(\) at"),
        (Curve("w", lambda t: weight(t)[:-1]), "at"),
        (Curve("w", weight, lambda t: np.ones(3), "x"), r"tolerance .* has shape \(3,\)"),
        (Curve("w", weight, lambda t: -np.ones(len(t)), "x"), "negative"),
        (Curve("w", weight, read=lambda r: (r.loss, r.loss)), "where the run has"),
        (Curve("w", weight, read=lambda r: (r.observables["w"], r.loss)), "bar has the shape"),
        (Curve("w", weight, read=lambda r: (r.observables["w"][1:], 0.0)), "Times come first"),
        (Curve("w", lambda t: weight(t) + 0j), "complex"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(curve, words):
    with pytest.raises(ValueError, match=words):
        theory.compare(run(), Prediction.of(curve))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Curve("w", weight, 0.1), "derivation="),
        (lambda: Curve("w", weight, lambda t: t), "derivation="),
        (lambda: Curve("w", weight, -0.1, "x"), "tolerance = -0.1"),
        (lambda: Curve("w", weight, resolves=0.5), "a factor 2"),
        (lambda: Curve("w", weight, regime=(1.0, 1.0)), "regime"),
        (lambda: Number("n", 1.0, lambda _: (1, 0), size=0.0), "size"),
        (lambda: Prediction.of(), "nothing"),
        (lambda: Prediction.of(RIGHT[0], RIGHT[0]), "label="),
        (lambda: Prediction.of(RIGHT[0]).at(-10.0), "no stages"),
        (lambda: Prediction.of(RIGHT[0]).plot(), r"plot\(t="),
        (lambda: theory.compare(run(), everything(), second=run(t1=3.0)), "second="),
        (
            lambda: theory.compare(run(), Prediction.of(Number("n", 1.0, lambda _: 1.0))),
            r"\(measured, bar\)",
        ),
    ],
)
def test_what_is_no_closed_form_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_steps_of_an_optimiser_are_no_flow_time():
    import optax

    trained = gflow.descend(MODEL, BOWL, optimizer=optax.adam(1e-2), steps=20)
    if trained.counts_steps:
        with pytest.raises(ValueError, match="steps of an optimiser"):
            theory.compare(trained, Prediction.of(Curve("w", weight)))
