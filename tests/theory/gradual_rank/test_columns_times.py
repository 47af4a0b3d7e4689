"""The limit algorithm for matrices: against exact times, the flow itself and symmetries."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_data
from columns_beside_runs import balanced_network, judged, misses, problem
from matrices import LOG10, Matrix, Quadratic, loss_crossing

import gflow
import theory
from gflow.solvers import Dopri8, Rodas5P
from theory.comparison._compare import measure
from theory.gradual_rank import _methods, predict
from theory.gradual_rank._methods import Radau

# T of random quadratic losses, by seed, d and r, from an independent implementation: 1 − e by
# the exact conserved balance, the branch of the last column by a determinant
QUADRATICS = {
    (7, 3, 3): (0.44182129, 0.75570015, 1.18094698),
    (3, 3, 3): (0.40374858, 0.54087811, 2.82126093),  # a column that shrinks, then escapes
    (11, 4, 4): (0.29747332, 0.54280083, 0.96919215, 2.27502704),
    (8, 4, 3): (0.31639002, 0.66564658, 1.30148679),
}


@functools.cache
def predicted(case):
    return predict(*problem(case))


# --- published and exact times --------------------------------------------------------


def case_marks(cases, fast):
    return [pytest.param(c, marks=[] if c in fast else pytest.mark.slow) for c in cases]


@pytest.mark.parametrize("case", case_marks(QUADRATICS, [(7, 3, 3), (3, 3, 3)]))
def test_times_of_random_quadratic_losses(case):
    prediction = predicted(case)
    found = [s.tau for s in prediction.stages]
    np.testing.assert_allclose(found, QUADRATICS[case], rtol=0, atol=1e-8)
    ranks = [int(s.rank["weight"]) for s in prediction.stages]
    assert ranks == [1, 2, 3, 4][: len(ranks)]
    assert [s.activated for s in prediction.stages] == [
        [("weight", (k,))] for k in range(len(ranks))
    ]
    for stage, rank in zip(prediction.stages, ranks, strict=True):
        sizes = np.linalg.svd(stage.value["weight"], compute_uv=False)
        assert np.sum(sizes > 1e-8) == rank


def test_offsets_of_a_random_quadratic_loss():
    prediction = predicted((7, 3, 3))
    found = [s.offset for s in prediction.stages]
    np.testing.assert_allclose(found[:2], [-0.000205, 0.777143], rtol=0, atol=1e-6)
    # the published one is simulated at 1e-60, where a power of α is left
    assert found[2] == pytest.approx(-0.526028, abs=1e-5)


def test_saddles_are_stationary_among_matrices_of_their_rank():
    """GV = 0 and GᵀU = 0 on the spaces of W, so that G acts on the complement alone."""
    _, objective = problem((3, 3, 3))
    for stage in predicted((3, 3, 3)).stages:
        w = stage.value["weight"]
        force = -jax.grad(lambda w: objective(Matrix(gflow.Frozen(w))))(jnp.asarray(w))
        np.testing.assert_allclose(w.T @ force, np.zeros((3, 3)), rtol=0, atol=1e-12)
        np.testing.assert_allclose(force @ w.T, np.zeros((3, 3)), rtol=0, atol=1e-12)
        assert stage.loss == pytest.approx(
            float(objective(Matrix(gflow.Factored(w, np.eye(3))))), abs=1e-13
        )


def linear_offsets(target, left, right):
    """C of the half-loss crossing of every mode of ½‖W − Σ‖² from balanced factors.

    P = e^{Ft}Z₀ of the Riccati flow: mode j alone follows the logistic law from m_j²α²/2·e^{2s_jt}
    with m_j the ratio of the volumes that the first j and j − 1 eigenvectors cut out of Z₀.
    """
    u, sizes, vt = np.linalg.svd(target)
    projected = np.concatenate([u, vt.T]).T @ np.concatenate([left, right]) / math.sqrt(2.0)
    volumes = [
        math.sqrt(np.linalg.det(projected[:j] @ projected[:j].T)) for j in range(len(sizes) + 1)
    ]
    volumes[0] = 1.0
    m = np.array(volumes[1:]) / np.array(volumes[:-1])
    # ½(s − w)² falls to ¼s² at w/s = 1 − √½, with w/(s − w) = m²α²e^{2st}/(2s)
    ratio = (1.0 - math.sqrt(0.5)) / math.sqrt(0.5)
    return 1.0 / sizes, np.log(2.0 * sizes * ratio / m**2) / (2.0 * sizes)


@pytest.mark.parametrize("seed", [0, 1])
def test_modes_of_a_linear_network(seed):
    target, left, right = balanced_network(seed)
    model = Matrix(gflow.Factored(left, right, log_scale=-60 * LOG10))
    prediction = predict(model, Quadratic(jnp.eye(9), jnp.asarray(target)))
    tau, offset = linear_offsets(target, left, right)
    np.testing.assert_allclose([s.tau for s in prediction.stages], tau, rtol=0, atol=1e-12)
    np.testing.assert_allclose([s.offset for s in prediction.stages], offset, rtol=0, atol=1e-9)
    u, sizes, vt = np.linalg.svd(target)
    for k, stage in enumerate(prediction.stages, 1):
        truncated = (u[:, :k] * sizes[:k]) @ vt[:k]
        np.testing.assert_allclose(stage.value["weight"], truncated, rtol=0, atol=1e-10)
        assert stage.rate == pytest.approx(sizes[k - 1], rel=1e-10)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("method", "explicit", "dense"), [(Dopri8, 8, 400), (Rodas5P, 0, 400), (Radau, 0, 0)]
)
@pytest.mark.parametrize("rtol", [1e-6, 1e-9])
def test_an_orbit_keeps_its_tolerance_by_every_method(
    method, explicit, dense, rtol, seed, monkeypatch
):
    """From the first step on, though a stiff method only has to follow what is left of a jump."""
    for name, value in (("_EXPLICIT", explicit), ("_DENSE", dense)):
        monkeypatch.setattr(_methods, name, value)
    target, left, right = balanced_network(seed)
    model = Matrix(gflow.Factored(left, right, log_scale=-60 * LOG10))
    prediction = predict(model, Quadratic(jnp.eye(9), jnp.asarray(target)), rtol=rtol)
    tau, offset = linear_offsets(target, left, right)
    np.testing.assert_allclose([s.tau for s in prediction.stages], tau, rtol=0, atol=1e-12)
    for stage, exact in zip(prediction.stages, offset, strict=True):
        assert abs(stage.offset - exact) * stage.rate < rtol
    for orbit in prediction.orbits.orbits:
        kinds = {type(getattr(by, "solver", by)) for by in orbit.by[1:]}
        # what is left of an orbit once it is stiff
        assert kinds - {Rodas5P} == ({method} if method is not Rodas5P else set())


@pytest.mark.slow
def test_times_of_the_dense_network_of_the_closed_form():
    data = reference_data.load("factored")
    target, left, right = (np.array(data[k]) for k in ("target", "left", "right"))
    model = Matrix(gflow.Factored(left, right, log_scale=-60 * LOG10))
    prediction = predict(model, Quadratic(jnp.eye(25), jnp.asarray(target)))
    sizes = np.linalg.svd(target, compute_uv=False)
    np.testing.assert_allclose([s.tau for s in prediction.stages], 1 / sizes, rtol=0, atol=1e-12)
    for exponent in ("60", "100"):
        times = np.array([float(x) for x in data["times"][exponent]])
        gaps = np.abs(times - prediction.at(-float(exponent) * LOG10).t)
        # α^{2(1 − s_{j+1}/s_j)} is left, below rounding at both
        np.testing.assert_array_less(gaps, 1e-8)
    offset = linear_offsets(target, left, right)[1]
    np.testing.assert_allclose([s.offset for s in prediction.stages], offset, rtol=0, atol=1e-8)


# --- the flow is the judge ------------------------------------------------------------


def test_times_at_finite_alpha_up_to_a_power_of_alpha():
    model, objective = problem((7, 3, 3))
    prediction = predicted((7, 3, 3))
    gaps = {}
    for exponent in (8, 15, 30, 60, 100):
        gaps[exponent], bars = misses(model, objective, prediction, -exponent * LOG10, rtol=1e-11)
        assert np.all(bars < 1e-10)
    for exponent in (60, 100):
        assert np.all(np.abs(gaps[exponent][:2]) <= 1e-6)
    # of the third time, the slowest: what is left at α beyond what is left at 1e-100
    left = np.array([abs(gaps[k][2] - gaps[100][2]) for k in (8, 15, 30, 60)])
    assert np.all(left[1:] < 0.5 * left[:-1])
    assert left[-1] < 1e-3 * left[0]


def test_the_last_offset_of_a_full_matrix():
    model, objective = problem((7, 3, 3))
    gaps, _ = misses(model, objective, predicted((7, 3, 3)), -100 * LOG10, rtol=1e-11)
    assert abs(gaps[2]) <= 1e-6


def test_composite_curve_and_ranks():
    model, objective = problem((7, 3, 3))
    prediction = predicted((7, 3, 3))
    finite = prediction.at(-60 * LOG10)
    tau = np.sort(
        np.concatenate([np.linspace(0.05, 1.4, 40), *(finite.tau[:, None] + [-0.01, 0, 0.01])])
    )
    run = gflow.simulate(model, objective, tau1=1.5, save=tau * finite.scale, rtol=1e-10)
    rows = np.searchsorted(run.t, tau * finite.scale)
    np.testing.assert_allclose(finite.loss(tau), run.loss[rows], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        finite.value(tau)["weight"], run.observables["weight"][rows], rtol=0, atol=1e-4
    )
    ranks = run.observables["weight.above_sqrt_alpha"][rows]
    assert np.mean(finite.above_sqrt_alpha(tau)["weight"] == ranks) > 0.95
    assert set(ranks) == {0, 1, 2, 3}


def test_a_scale_beyond_all_floats():
    """At log α = −1e5 the remainder is nothing: T·Λ + C to the rounding of t."""
    model, objective = problem((7, 3, 3))
    prediction = predicted((7, 3, 3))
    run = gflow.simulate(gflow.rescale(model, -1e5), objective, tau1=1.3, rtol=1e-10)
    comparison = theory.compare(run, prediction)
    assert comparison.passed, comparison
    times = zip(measure(run, prediction), prediction.at(-1e5).t, strict=True)
    for crossing, t in list(times)[:2]:
        assert crossing is not None
        # t of 1e5 is 1.5e-11 an ulp, and T is known to a few ulp
        assert abs(crossing.t - t) <= 1e-7 + crossing.error


def test_comparison_of_a_run_with_its_prediction():
    model, objective = problem((3, 3, 3))
    prediction = predicted((3, 3, 3))
    run = gflow.simulate(model, objective, tau1=3.2)
    comparison = theory.compare(run, prediction)
    assert comparison.passed, comparison
    assert [row.verdict for row in comparison.rows] == ["confirmed"] * 3
    assert [row.rank_measured for row in comparison.rows] == ["weight 1", "weight 2", "weight 3"]
    # without the rule of parity the third would come at 2.78672915
    assert abs(comparison.rows[2].tau_measured - 2.78672915) > 0.02


MORE = [(s, 3, 3) for s in (20, 21, 22, 23, 24, 25)] + [(30, 3, 2), (31, 4, 2), (32, 4, 3)]


@pytest.mark.parametrize("case", case_marks(MORE, [(20, 3, 3), (25, 3, 3)]))
def test_every_stage_of_further_quadratic_losses(case):
    model, objective = problem(case)
    log_alpha = -130 * LOG10
    prediction = predicted(case)
    assert prediction.ended.startswith("complete")
    gaps, _ = misses(model, objective, prediction, log_alpha)
    if case == (22, 3, 3):
        # A column that shrank escapes from the other branch: a time in the limit, no offset.
        # It stood at α^0.98 beside the other branch at α^1.02: a slow power of α is left.
        assert [math.isfinite(s.offset) for s in prediction.stages] == [True, True, False]
        last, scales = prediction.stages[2], np.array([150.0, 300.0, 690.0])
        assert last.level is not None
        times = [
            loss_crossing(
                gflow.simulate(gflow.rescale(model, -x), objective, tau1=1.6, error_bars=False),
                last.level[1],
            ).t
            for x in scales
        ]
        apart = np.abs(np.diff(times) / np.diff(scales) - last.tau)
        assert apart[1] < 0.5 * apart[0] < 0.5e-3
        gaps = np.where(np.isfinite(gaps), gaps, 0.0)
    judged(gaps, prediction, log_alpha)


class LogCosh(eqx.Module):
    """Σ log cosh(XWY − M) of mixtures of the entries."""

    mixing: jax.Array
    target: jax.Array

    def __call__(self, model):
        rest = jnp.matmul(self.mixing, model.weight.value.ravel()) - self.target
        return jnp.sum(jnp.logaddexp(rest, -rest))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_every_stage_of_a_loss_that_is_not_quadratic(seed):
    rng = np.random.default_rng(40 + seed)
    objective = LogCosh(
        jnp.asarray(0.5 * rng.standard_normal((12, 9))), jnp.asarray(rng.standard_normal(12))
    )
    model = Matrix(gflow.Factored(rng.standard_normal((3, 3)), rng.standard_normal((3, 3)), -700.0))
    prediction = predict(model, objective)
    gaps, _ = misses(model, objective, prediction, -700.0)
    judged(gaps, prediction, -700.0)


# --- symmetries -----------------------------------------------------------------------


def same(one, two, *, time=1.0, loss=1.0, atol=1e-8):
    assert len(one.stages) == len(two.stages)
    for a, b in zip(one.stages, two.stages, strict=True):
        assert b.tau == pytest.approx(a.tau * time, rel=1e-10)
        assert b.offset == pytest.approx(a.offset * time, rel=0, abs=atol)
        assert b.rate == pytest.approx(a.rate / time, rel=1e-10)
        assert b.loss == pytest.approx(a.loss * loss, rel=1e-10, abs=1e-12)
        assert b.margin == pytest.approx(a.margin * time, rel=1e-9)


@pytest.mark.parametrize("case", case_marks([(7, 3, 3), (3, 3, 3)], [(7, 3, 3)]))
def test_the_gauge_of_the_start_does_not_matter(case):
    model, objective = problem(case)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    turned = gflow.Factored(
        model.weight.left @ turn, model.weight.right @ turn, log_scale=model.weight.log_alpha
    )
    same(predicted(case), predict(Matrix(turned), objective))


@pytest.mark.parametrize("case", case_marks([(7, 3, 3), (3, 3, 3)], [(3, 3, 3)]))
def test_a_loss_four_times_as_high_takes_a_quarter_of_the_time(case):
    model, objective = problem(case)
    higher = eqx.tree_at(lambda o: o.kernel, objective, 4.0 * objective.kernel)
    same(predicted(case), predict(model, higher), time=0.25, loss=4.0)


@pytest.mark.slow
def test_another_basis_and_the_transpose_are_the_same():
    """W → UWVᵀ with K and M turned along, and W → Wᵀ."""
    model, objective = problem((3, 3, 3))
    u, v = (np.linalg.qr(np.random.default_rng(s).standard_normal((3, 3)))[0] for s in (6, 7))
    weight, both = model.weight, np.kron(u, v)
    kernel, target = np.asarray(objective.kernel), np.asarray(objective.target)
    turned = Matrix(gflow.Factored(u @ weight.left, v @ weight.right, log_scale=weight.log_alpha))
    other = Quadratic(jnp.asarray(both @ kernel @ both.T), jnp.asarray(u @ target @ v.T))
    same(predicted((3, 3, 3)), predict(turned, other))
    swap = np.arange(9).reshape(3, 3).T.ravel()
    flipped = Matrix(gflow.Factored(weight.right, weight.left, log_scale=weight.log_alpha))
    other = Quadratic(jnp.asarray(kernel[np.ix_(swap, swap)]), jnp.asarray(target.T))
    same(predicted((3, 3, 3)), predict(flipped, other))


def test_larger_factors_come_earlier_by_their_logarithm():
    """A, B → e^δ A, e^δ B is Λ → Λ − δ, so C_k → C_k − δT_k: all that a stage hands on."""
    model, objective = problem((3, 3, 3))
    weight, shift = model.weight, 1.7
    larger = gflow.Factored(
        math.exp(shift) * weight.left,
        math.exp(shift) * weight.right,
        log_scale=weight.log_alpha,
    )
    one, two = predicted((3, 3, 3)), predict(Matrix(larger), objective)
    for a, b in zip(one.stages, two.stages, strict=True):
        assert b.tau == pytest.approx(a.tau, rel=1e-12)
        assert b.offset == pytest.approx(a.offset - shift * a.tau, rel=0, abs=1e-8)
