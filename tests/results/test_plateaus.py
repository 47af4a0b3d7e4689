"""Peaks of the descent that stand out, against SciPy's."""

import numpy as np
import pytest
from scipy import signal

from gflow.results._plateaus import prominent


@pytest.mark.parametrize("least", [0.1, 1.0, 3.0])
def test_peaks_are_those_of_scipy_by_prominence(least):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        height = np.cumsum(rng.normal(size=rng.integers(1, 60)) * rng.choice([0.3, 1.0, 5.0]))
        foot = [height.min() - 1e3]
        padded = np.concatenate([foot, height, foot])
        expected = signal.find_peaks(padded, prominence=least)[0] - 1
        assert prominent(height, least) == expected.tolist()
        found += len(expected)
    assert found > 600


def test_what_falls_less_is_no_peak():
    assert prominent(np.array([0.0, 5.0, 4.0, 6.0, 0.0]), 2.0) == [3]
    assert prominent(np.array([0.0, 5.0, 2.0, 6.0, 0.0]), 2.0) == [1, 3]
    assert prominent(np.array([]), 2.0) == []
