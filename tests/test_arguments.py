"""Arguments that are no numbers: the argument, what was given and what it is."""

import numpy as np
import pytest

from gflow.arguments import count, number


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
