"""Ranks of trained heads: read at equal loss, judged by intervals, and the wrong refuted."""

import numpy as np
import pytest
from scipy import stats

from gflow.internal import trained_leaves
from theory.reproduce import Report
from theory.reproduce.gradual_rank_vit.problem import problem
from theory.reproduce.gradual_rank_vit.settings import Settings
from theory.reproduce.trained_heads import measure as judged
from theory.reproduce.trained_heads.balance import conserved
from theory.reproduce.trained_heads.courses import Course

SMALL = Settings(examples=20, d=4, hidden=4, layers=1, seeds=1, scales=(1.0, 0.1), steps=50)


def spectrum(rank):
    """Two values of this stable rank."""
    return [1.0, np.sqrt(rank - 1.0)]


def made(losses, ranks):
    """One head per column of `ranks`, the same of both products."""
    values = np.array([[spectrum(r) for r in row] for row in ranks])
    return Course(np.array(losses), {"kq": values, "vo": values})


def found(large, small):
    """Flows of one head from two scales, by seed the rank at the last loss."""
    levels = problem(SMALL).levels
    losses = [2.5, *levels]

    def course(rank):
        steps = np.linspace(rank - 0.1, rank, len(levels))
        return made(losses, [[rank - 0.1], *([r] for r in steps)])

    flows = {1.0: [course(r) for r in large], 0.1: [course(r) for r in small]}
    return judged.Ranks(problem(SMALL), (1.0, 0.1), {"flow": flows})


def read(course, level):
    ranks = course.at("kq", level)
    assert ranks is not None
    return ranks


def verdicts(folder, ranks):
    report = Report("gradual-rank-vit", "2306.07042", folder)
    judged._smaller_is_lower(report, ranks, "vo")
    return {row.quantity: row.verdict for row in report.rows}


def test_ranks_of_known_spectra():
    course = made([2.0, 1.0, 0.5], [[1.0, 1.5], [1.25, 2.0], [1.5, 1.75]])
    np.testing.assert_allclose(course.ranks("kq"), [[1.0, 1.5], [1.25, 2.0], [1.5, 1.75]])
    np.testing.assert_allclose(read(course, 0.75), [1.375, 1.875])
    np.testing.assert_allclose(read(course, 0.5), [1.5, 1.75])
    assert course.at("kq", 0.4) is None


def test_nothing_learned_has_no_rank():
    course = Course(np.array([2.0, 1.0]), {"kq": np.array([[[0.0, 0.0]], [[2.0, 1.0]]])})
    assert np.isnan(course.ranks("kq")[0, 0])
    np.testing.assert_allclose(read(course, 1.5), [1.25])


def test_the_interval_is_students():
    values = np.array([1.0, 1.2, 1.1, 1.4])
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    mean, half = judged.interval(values)
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)
    assert judged.interval(values[:1]).half == np.inf


@pytest.mark.parametrize(
    ("large", "small", "verdict"),
    [
        ((1.6, 1.5, 1.7), (1.2, 1.15, 1.25), "confirmed"),
        ((1.2, 1.15, 1.25), (1.6, 1.5, 1.7), "refuted"),
        ((1.3, 1.5, 1.4), (1.5, 1.25, 1.4), "undecided"),
    ],
)
def test_a_lower_rank_of_smaller_scales(tmp_path, large, small, verdict):
    assert verdicts(tmp_path, found(large, small))["vo.scale"] == verdict


def test_seeds_that_do_not_arrive_leave_it_open(tmp_path):
    ranks = found((1.6, 1.5, 1.7), (1.2, 1.15, 1.25))
    lost = ranks.courses["flow"][0.1][0]
    ranks.courses["flow"][0.1][0] = Course(
        lost.loss[:-1], {key: values[:-1] for key, values in lost.spectra.items()}
    )
    assert set(verdicts(tmp_path, ranks).values()) == {"undecided"}


def test_scale_is_that_of_the_attention_alone():
    own = problem(SMALL)
    one, tenth = own.start(3, 1.0), own.start(3, 0.1)
    query = trained_leaves(one)["layers.0.attention.query"]
    scaled = trained_leaves(tenth)["layers.0.attention.query"]
    np.testing.assert_allclose(scaled, 0.1 * query, rtol=1e-15)
    np.testing.assert_array_equal(tenth.embedding, one.embedding)
    other = trained_leaves(own.start(4, 1.0))["layers.0.attention.query"]
    assert not np.allclose(other, query)


@pytest.mark.slow
def test_the_flow_conserves_what_descent_does_not(tmp_path):
    report = Report("gradual-rank-vit", "2306.07042", tmp_path)
    own = problem(SMALL)._replace(levels=(2.2, 2.0))
    conserved(report, own, 0.1)
    assert [row.verdict for row in report.rows] == ["confirmed", "confirmed"]
