"""Dormant columns on a plateau, against the exponential of its force."""

import numpy as np
import predicted_families
import pytest
import scipy.linalg

from theory.gradual_rank._columns import Columns
from theory.gradual_rank._curves import Curves
from theory.remainder._flag import graded


def plateau() -> Columns:
    """After the first of three columns: growth rates 1.19 and 1.05, so that they part late."""
    curves = predicted_families.matrix().prediction.orbits
    assert isinstance(curves, Curves)
    (part,) = curves.plateaus[1]
    assert isinstance(part, Columns)
    return part


def turned(part: Columns) -> np.ndarray:
    """Its two dormant columns, turned among themselves."""
    c, s = np.cos(1.1), np.sin(1.1)
    return part.directions @ np.array([[c, -s], [s, c]])


@pytest.mark.parametrize("span", [0.3, 5.0])
def test_columns_follow_the_force_in_their_order(span):
    part = plateau()
    zero = np.zeros((3, 3))
    force = np.block([[zero, part.force], [part.force.T, zero]])
    columns = turned(part)
    q, r = np.linalg.qr(scipy.linalg.expm(span * force) @ columns)
    found, logs = graded(part, columns, span)
    np.testing.assert_allclose(found, q * np.sign(np.diag(r)), rtol=0, atol=1e-11)
    np.testing.assert_allclose(logs, np.log(np.abs(np.diag(r))), rtol=0, atol=1e-11)


def test_a_late_turn_ends_in_the_directions_of_the_plateau():
    part = plateau()
    columns, span = turned(part), 1e4
    found, logs = graded(part, columns, span)
    along = np.abs(np.sum(found * part.directions, axis=0))
    np.testing.assert_allclose(along, 1.0, rtol=0, atol=1e-12)
    # the first grows by what of it lies along the fastest, both together by their volume
    first = np.log(np.abs(part.directions[:, 0] @ columns[:, 0]))
    expected = part.rates * span + np.array([first, -first])
    np.testing.assert_allclose(logs, expected, rtol=0, atol=1e-8)
