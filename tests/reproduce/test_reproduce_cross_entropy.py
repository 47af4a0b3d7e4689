"""Parts of the experiment on cross-entropy: what holds is confirmed, other laws are refuted."""

import dataclasses

import numpy as np
import pytest

from theory import cross_entropy
from theory.reproduce import Report
from theory.reproduce.cross_entropy.cooccurrence import draw as words_draw, measure as words
from theory.reproduce.cross_entropy.curves import draw as curves_draw, measure as curves
from theory.reproduce.cross_entropy.lookup import draw as lookup_draw, measure as lookup
from theory.reproduce.cross_entropy.next_token import draw as decoder_draw, measure as decoder
from theory.reproduce.cross_entropy.separators import draw as separators_draw, measure as separators
from theory.reproduce.cross_entropy.settings import FAST, FULL

ONE = dataclasses.replace(FAST, sizes=(1e-200,), separators=1, seeds=1, steps=2000)


def report(folder):
    return Report("cross-entropy", "2512.04006", folder)


def missed(found):
    return [(row.quantity, row.reason) for row in found.rows if not row.passed]


def test_fast_settings_are_a_part_of_the_full_ones():
    assert set(FAST.sizes) < set(FULL.sizes)


def test_the_lookup_follows_its_decays_and_another_course_is_refuted(tmp_path):
    judged = report(tmp_path)
    found = lookup.lookup(judged)
    assert not missed(judged)
    assert np.max(np.abs(found.a - found.exact)) < 1e-8
    # a decay that changes half a unit of time later
    later = lookup.course(found.run.t - 0.5)
    assert np.max(np.abs(later - found.a)) > 1e-3
    lookup_draw.course_figure(found)


@pytest.mark.slow
def test_logits_modes_and_collapse(tmp_path):
    judged = report(tmp_path)
    exact, modes = curves.equiangular(judged, ONE), curves.hadamard(judged)
    found = curves.collapse(judged)
    assert not missed(judged)
    run = exact[1e-200]
    wrong = cross_entropy.etf_logit(curves.K, 1e-200, run.t, 1.001)
    assert np.max(np.abs(wrong / curves.logit(run) - 1.0)) > 1e-4
    curves_draw.curves(exact, modes, found)


@pytest.mark.slow
def test_directions_of_separators(tmp_path):
    judged = report(tmp_path)
    found = separators.separators(judged, ONE)
    assert not missed(judged)
    rows = {row.quantity: row for row in judged.rows}
    (slope,) = (row for name, row in rows.items() if name.endswith("slope"))
    judged.add("wrong", 1.1 * slope.predicted, slope.measured, slope.tolerance, slope.error_bar)
    assert judged.rows[-1].verdict == "refuted"
    separators_draw.angles(found)


@pytest.mark.slow
def test_words_and_next_tokens(tmp_path):
    judged = report(tmp_path)
    found = words.words(judged, ONE)
    assert not missed(judged)
    balance = next(row for row in judged.rows if ".balance." in row.quantity)
    judged.add("wrong", 1.01 * balance.predicted, balance.measured, balance.tolerance,
               balance.error_bar)  # fmt: skip
    assert judged.rows[-1].verdict == "refuted"
    words_draw.words(found)
    stages = decoder.stages(judged, ONE)
    assert len(missed(judged)) == 1
    decoder_draw.stages(stages)
