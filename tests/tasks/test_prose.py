"""Sentences from SciPy's docstrings, looked for in the docstrings that Python shows."""

import inspect

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from gflow import tasks


@pytest.fixture(scope="module")
def text():
    return tasks.scipy_prose()


def parts(text):
    return [text.decoded(x).split("\n\n") for x in (text.training, text.held_out)]


def test_it_is_long_and_its_parts_do_not_overlap(text):
    training, held_out = parts(text)
    assert 300_000 < len(text.training) < 2_000_000
    assert len(held_out) == (len(training) + len(held_out)) // 10
    assert len({*training, *held_out}) == len(training) + len(held_out)


def test_paragraphs_are_sentences(text):
    training, held_out = parts(text)
    for paragraph in training + held_out:
        assert "\n" not in paragraph
        assert ">>>" not in paragraph.split(" ")[0]
        assert paragraph.endswith(".")
    # letters by frequency: those of English, e and t first
    letters = [c for c in text.decoded(text.training).lower() if "a" <= c <= "z"]
    names, counts = np.unique(letters, return_counts=True)
    assert "".join(names[np.argsort(-counts)][:2]) == "et"
    assert set(names[np.argsort(-counts)][:8]) == set("etaoinsr")
    assert text.decoded(text.training).lower().count(" the ") > 5000


@pytest.mark.parametrize(
    "function",
    [scipy.optimize.brentq, scipy.stats.ttest_ind, scipy.optimize.differential_evolution],
)
def test_it_is_what_the_docstrings_say(function, text):
    known = {p for part in parts(text) for p in part}
    blocks = [b.split("\n") for b in inspect.getdoc(function).split("\n\n")]
    found = [" ".join(lines) in known for lines in blocks]
    assert sum(found) >= 2
    # nothing that was indented, as parameters and examples are
    assert not any(f for f, lines in zip(found, blocks, strict=True) if lines[-1].startswith(" "))
