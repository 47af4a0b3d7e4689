"""heyoka and the C floor are right, and the new sections measure what they say."""

import ast
import dataclasses

import numpy as np
import pytest

import gflow
from benchmarks import (
    accuracy,
    clock,
    contenders,
    ends,
    example,
    floor,
    formulations,
    landscapes,
    reading,
    report,
    targets,
)
from benchmarks.accuracy import RIGHT
from benchmarks.alternatives import METHODS, relative_to_start, taylor
from benchmarks.problems import problem

needs_compiler = pytest.mark.skipif(floor.missing() is not None, reason=floor.missing() or "")


@pytest.fixture(scope="module")
def case():
    """The exact fixture at α = 1e-4."""
    return problem("zhao").at(4)


@needs_compiler
@pytest.mark.parametrize("exponent", [4, 300])
def test_floor_takes_the_steps_of_gflow(exponent):
    case = problem("zhao").at(exponent)
    solution, counts = floor.solve(case.dual, case.times, 1e-6)
    run = gflow.simulate(
        case.model, case.problem.objective, t1=case.t1, rtol=1e-6, error_bars=False,
        solver=gflow.solvers.Rodas5P(pivot=False),
    )  # fmt: skip
    own = {name: run.statistics[name] for name in counts}
    assert sum(counts.values()) == pytest.approx(sum(own.values()), rel=0.02)
    assert solution.claims
    end, _ = floor.solve(case.dual, np.array([case.t1]), 1e-6)
    np.testing.assert_allclose(end.weights[-1], case.problem.read(run)[-1], atol=1e-6)
    np.testing.assert_allclose(
        solution.weights, accuracy.flow_weights(case, 1e-6).weights, atol=1e-5
    )


@pytest.fixture(scope="module")
def attention():
    """A loss that is not quadratic."""
    landscape = landscapes.SoftmaxHead(*np.ones((2, 5, 3, 3)))
    return formulations.dual(landscape, formulations.Factors(*np.ones((4, 6))))


@needs_compiler
def test_floor_is_no_alternative(case, attention):
    names = [c.name for c in contenders.contenders(case)]
    assert names.index(floor.FLOOR) == 2
    assert floor.FLOOR in contenders.OWN
    assert not floor.applies(attention)
    _, counts = floor.solve(case.dual, case.times, 1e-8, most=5)
    assert sum(counts.values()) == 5


def test_without_a_compiler_the_floor_says_so(monkeypatch, case):
    monkeypatch.setattr(floor, "COMMAND", ("no-such-compiler",))
    assert "no C compiler" in str(floor.missing())
    assert floor.FLOOR not in [c.name for c in contenders.contenders(case)]


@pytest.mark.parametrize("exponent", [16, 300, 1000])
def test_heyoka_is_right_far_below(exponent):
    pytest.importorskip("heyoka")
    case = problem("zhao").at(exponent)
    truth = accuracy.reference(case)
    for method in taylor.METHODS:
        flow = getattr(case, method.coordinates)
        if flow is not None:
            solution = method(flow, case.times, relative_to_start(flow, 1e-8), limit=20.0)
            assert solution.claims, solution.message
            assert accuracy.error(solution, truth) <= RIGHT
    late = taylor.METHODS[1](case.dual, case.times, relative_to_start(case.dual, 1e-8), limit=0.0)
    assert not late.claims


def test_heyoka_is_for_quadratic_losses_of_few_weights(attention):
    (raw, dual) = taylor.METHODS
    assert {raw, dual} <= set(METHODS)
    assert dual.applies(problem("zhao").at(4).dual)
    assert not dual.applies(attention)


def test_wall_and_cpu_time_are_both_kept():
    taken = clock.interleaved({"a": lambda: sum(range(1000)), "b": list}, 3)
    assert [len(x.wall) for x in taken.values()] == [3, 3]
    assert [len(x.cpu) for x in taken.values()] == [3, 3]
    assert set(taken["a"].medians) == {"seconds", "cpu_seconds"}


def test_end_state_is_the_last_of_the_times_compared(case):
    end = dataclasses.replace(case, end_only=True)
    assert list(end.times) == [case.t1]
    weights = accuracy.flow_weights(end, 1e-8).weights
    assert weights.shape == (1, 4)
    np.testing.assert_allclose(weights[0], accuracy.reference(case).weights[-1], atol=1e-6)


def test_dense_factors_are_one_flow_in_both_forms():
    case = ends.dense().at(4)
    dopri = next(m for m in METHODS if m.name == ends.DOPRI)
    solution = dopri(case.raw, case.times, relative_to_start(case.raw, 1e-9))
    ours = accuracy.flow_weights(case, 1e-9)
    np.testing.assert_allclose(solution.weights, ours.weights, atol=1e-6)


def test_second_example_is_the_first_with_other_numbers():
    block = example.first_block((example.HOME / "README.md").read_text())
    ast.parse(example.script())
    second = example.second_of(block)
    assert "import" not in second
    assert "class" not in second
    assert "gflow.simulate" in second
    assert "print" in second
    assert "key(1)" in second
    assert "log_alpha=-230" not in second


@pytest.mark.slow
def test_quick_sections_are_judged_and_printed(tmp_path):
    def quiet(line):
        pass

    parts = {"ends": ends.run(True, quiet), "reading": reading.run(True, quiet)}
    results = report.save(tmp_path / "results.json", parts | {"example": {"skipped": "slow"}})
    for name in ("ends", "reading"):
        assert all(row["cpu_seconds"] is None or row["cpu_seconds"] > 0.0
                   for row in results[name]["rows"])  # fmt: skip
    text = report.markdown(results)
    assert "End state alone" in text
    assert "Reading a run" in text
    assert {row["passed"] for row in results["targets"]} == {None}


def test_what_was_asked_is_judged():
    rows = [
        {"problem": "regression-10", "exponent": e, "method": m, "verdict": "right",
         "cpu_seconds": s}
        for e, m, s in ((16, "gflow", 1.0), (16, ends.DOPRI, 2.0), (1_000_000, "gflow", 1.6))
    ]  # fmt: skip
    cpu = {"default run": 1.5, "run without error bars": 1.0, "stages": 0.3, "compare": 0.9}
    read = [{"exponent": 16, "what": name, "cpu_seconds": x} for name, x in cpu.items()]
    fresh = [{"cache": "warm", "cpu_seconds": 5.0, "second_cpu_seconds": 2.0}]
    found = targets.judge(
        {"ends": {"rows": rows}, "reading": {"rows": read}, "example": {"rows": fresh}}
    )
    met = {row["name"]: row["passed"] for row in found if row["passed"] is not None}
    assert list(met.values()).count(True) == 4
    assert list(met.values()).count(False) == 3
