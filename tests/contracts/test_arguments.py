"""Arguments that are no numbers: the argument, what was given and what it is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import bad_inputs
import jax.numpy as jnp
import numpy as np
import pytest
from bad_inputs import CASES, model, objective

import gflow
from gflow._arguments import count, number


@pytest.mark.parametrize("value", ["5", None, {}, True, 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"t1 = .* is no number: the end"):
        number("t1", value, "the end")


def test_one_number_is_wanted():
    with pytest.raises(ValueError, match=r"t1 = .*shape \(2,\).*simulate_batch"):
        number("t1", np.ones(2), "the end")
    for value in (5, 5.0, np.float32(5), np.array(5)):
        assert number("t1", value, "the end") == 5.0


@pytest.mark.parametrize("value", [0, -3, 1.5, "9", None, True])
def test_a_count_is_an_integer_of_at_least_one(value):
    with pytest.raises(ValueError, match=r"max_steps = .*integer of at least 1"):
        count("max_steps", value, "steps")
    assert count("max_steps", np.int64(3), "steps") == 3


@pytest.fixture(scope="module")
def sentences():
    """What each case raises in a process without the type checks of this suite."""
    script = Path(bad_inputs.__file__)
    return json.loads(
        subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_sentence_says_what_was_given_and_what_is_needed(case, sentences):
    assert re.match(f"(?s)ValueError: .*{CASES[case][1]}", sentences[case]), sentences[case]


def test_no_times_are_no_records():
    run = gflow.simulate(model(), objective, tau1=1.0, error_bars=False)
    assert run.record_at([])["loss"].shape == (0,)
    assert run.record_at([])["leaves"]["w"]["value"].shape == (0, 2)


def test_a_loss_without_a_force_has_no_stages():
    still = gflow.simulate(model(), lambda _: jnp.asarray(3.0), tau1=1.0, error_bars=False)
    assert still.stages() == []
