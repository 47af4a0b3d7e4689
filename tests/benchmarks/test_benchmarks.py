"""The alternatives solve what gflow solves, and the report says what was measured."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from benchmarks import accuracy, contenders, formulations, grids, landscapes, networks, report
from benchmarks.accuracy import RIGHT, Verdict
from benchmarks.alternatives import METHODS, Solution, diffrax_loops, relative_to_start
from benchmarks.problems import problem

TIGHT = 1e-9
#: Interpolation between steps costs torchdiffeq's dopri8 its order.
TIGHTER = {"torchdiffeq dopri8": 1e-11}


class Weight(gflow.Parameter):
    """A weight that is differentiated as it is."""

    value: jax.Array

    def conserved(self):
        return jnp.zeros(0)


@pytest.fixture(scope="module")
def case():
    """The exact fixture at α = 1e-4."""
    return problem("zhao").at(4)


@pytest.fixture(scope="module")
def written():
    """Formulations of every kind, by name."""
    rng = np.random.default_rng(0)
    quadratic = landscapes.Quadratic.of(rng.standard_normal((7, 6)), rng.standard_normal(7))
    softmax = landscapes.SoftmaxHead(*rng.standard_normal((2, 5, 3, 3)))
    factors = formulations.Factors(*rng.uniform(-1, 1, (2, 6)), *rng.choice([-1.0, 1.0], (2, 6)))
    matrices = networks.MatrixFactorisation.draw(3, (2.0, 1.0))
    return {
        "raw quadratic": formulations.raw(quadratic, factors, 1.0),
        "dual quadratic": formulations.dual(quadratic, factors),
        "raw softmax": formulations.raw(softmax, factors, 1.0),
        "dual softmax": formulations.dual(softmax, factors),
        "raw matrices": matrices.raw(matrices.model(-1.0, jax.random.key(0))),
    }


KINDS = ["raw quadratic", "dual quadratic", "raw softmax", "dual softmax", "raw matrices"]


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_jax_write_one_flow(written, kind):
    flow = written[kind]
    y = np.random.default_rng(1).uniform(-0.5, 0.5, flow.start.size)
    field, at = flow.field, jnp.asarray(y)
    np.testing.assert_allclose(flow.rhs(0.0, y), field(0.0, at, None), rtol=1e-12, atol=1e-13)
    exact = jax.jacfwd(lambda y: field(0.0, y, None))(at)
    np.testing.assert_allclose(flow.jacobian(0.0, y), exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["quadratic", "softmax"])
def test_both_coordinates_start_at_one_point(written, kind):
    raw, dual = written[f"raw {kind}"], written[f"dual {kind}"]
    np.testing.assert_allclose(raw.weights(raw.start), dual.weights(dual.start), rtol=1e-13)
    # and move the same way: θ' = θ'(y) y'
    step = 1e-6
    moved = [f.weights(f.start + step * f.rhs(0.0, f.start)) for f in (raw, dual)]
    np.testing.assert_allclose(*moved, rtol=1e-9)


def test_force_is_that_of_gflows_model():
    x, y = np.random.default_rng(0).standard_normal((2, 5, 3, 3))
    theta = np.random.default_rng(1).standard_normal(6)

    def loss(theta):
        kq, vo = (Weight(part[None]) for part in jnp.split(theta, 2))
        return gflow.objectives.SquaredLoss(x, y)(gflow.models.DiagonalAttention(kq, vo))

    ours = landscapes.SoftmaxHead(x, y).force(theta)
    np.testing.assert_allclose(ours, -jax.grad(loss)(jnp.asarray(theta)), rtol=1e-12)


@pytest.mark.parametrize("method", [m for m in METHODS[:-1] if m.installed], ids=lambda m: m.name)
def test_every_alternative_is_right_when_asked_tightly(case, method):
    flow = getattr(case, method.coordinates)
    tolerance = relative_to_start(flow, TIGHTER.get(method.name, TIGHT))
    solution = method(flow, case.times, tolerance, limit=20.0)
    assert solution.claims, solution.message
    assert accuracy.error(solution, accuracy.reference(case)) <= RIGHT


def test_gradient_descent_converges_with_its_step(case):
    truth = accuracy.reference(case)
    descent = METHODS[-1]
    errors = [
        accuracy.error(descent(case.raw, case.times, relative_to_start(case.raw, t)), truth)
        for t in (1e-6, 1e-7)
    ]
    assert errors[0] / errors[1] == pytest.approx(10.0, rel=0.1)


def test_reference_agrees_with_its_check(case):
    assert accuracy.reference(case).difference < 1e-9


def test_unreported_evaluations_are_counted(case):
    named = {m.name: m for m in METHODS}
    tolerance = relative_to_start(case.raw, 1e-3)
    tsit5 = named["Diffrax Tsit5"]
    told = tsit5(case.raw, case.times, tolerance).evaluations
    counted = diffrax_loops.count_evaluations(tsit5, case.raw, case.times, tolerance)
    assert abs(told - counted) <= 2


@pytest.mark.parametrize(
    ("claims", "off", "rtol", "verdict"),
    [
        (True, 1e-7, 1e-8, Verdict.RIGHT),
        (True, 5e-6, 1e-8, Verdict.INEXACT),
        (True, 2e-5, 1e-8, Verdict.LIE),
        (True, 0.02, 1e-3, Verdict.LIE),
        (True, np.inf, 1e-3, Verdict.LIE),
        (False, 1e-9, 1e-8, Verdict.FAILED),
    ],
)
def test_verdicts(claims, off, rtol, verdict):
    assert accuracy.classify(claims, off, rtol) == verdict


def test_a_doctored_answer_is_a_lie_and_an_exception_a_failure(case):
    truth = accuracy.reference(case)
    missed = Solution(np.zeros_like(truth.weights), claims=True)
    assert accuracy.classify(True, accuracy.error(missed, truth), 1e-8) == Verdict.LIE
    broken = Solution(np.full_like(truth.weights, np.nan), claims=True)
    assert accuracy.classify(True, accuracy.error(broken, truth), 1e-8) == Verdict.LIE

    method = METHODS[0]
    late = method(case.raw, case.times, relative_to_start(case.raw, 1e-8), limit=0.0)
    assert not late.claims
    assert "time limit" in late.message


def test_times_keep_off_the_jumps():
    jumps, rates = np.array([10.0, 50.0, 51.0]), np.array([1.0, 2.0, 4.0])
    times, off = grids.evaluation_times(jumps, rates, 100.0)
    assert off
    assert len(times) == grids.POINTS
    distance = np.abs(times[:, None] - jumps) * rates
    assert np.min(distance) >= grids.MARGIN * (1 - 1e-12)
    assert not grids.evaluation_times(jumps, rates, 100.0 / 9)[1] or times[0] > 0.0
    assert not grids.evaluation_times(jumps / 100, rates, 1.0)[1]


def test_report_has_its_keys(case, tmp_path):
    field = contenders.contenders(case)
    names = [c.name for c in field]
    assert names[:2] == ["gflow", "gflow, error bars"]
    row = {
        "problem": "regression-10", "exponent": 16, "coordinates": "gflow", "verdict": "right",
        "seconds": 1.0, "method": "gflow", "tolerance": 1e-4, "error": 1e-7,
    }  # fmt: skip
    slower = {**row, "method": "dual, SciPy Radau", "coordinates": "dual", "seconds": 4.0}
    lie = {**row, "verdict": "lie", "error": float("inf"), "setting": "library default"}
    single = {
        "costs": [row, slower],
        "sweeps": [{**row, "verdict": ["inexact", "right"]}],
        "settings": [lie],
        "cold": [],
        "steps": [{"exponent": 3, "steps": 100}, {"exponent": 1_000_000, "steps": 250}],
    }
    path = tmp_path / "results.json"
    report.save(path, {"single": single})
    results = report.save(path, {"large": {"skipped": "not here"}})
    assert results == json.loads(path.read_text())
    assert set(results) == {"single", "large", "targets"}
    assert {"date", "versions", "processor", "cores", "load_average"} <= set(
        results["single"]["environment"]
    )
    judged = {t["name"]: t for t in results["targets"]}
    assert all(set(t) == {"name", "asked", "measured", "passed"} for t in results["targets"])
    faster = judged["fastest alternative over gflow, p = 10, 1e-16"]
    assert (faster["measured"], faster["passed"]) == (4.0, True)
    assert judged["steps at 10^-1000000 over steps at 1e-3, rtol 1e-8"]["measured"] == 2.5
    assert not judged["wrong answers of gflow that claim success"]["passed"]
    assert judged["fastest alternative over gflow, p = 10, 1e-100"]["passed"] is None
    assert "**lie** NaN" in report.markdown(results)
