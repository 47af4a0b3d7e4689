"""Late laws against SciPy's flows, and against the closed form they are the end of."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import softmax

from theory import cross_entropy

# margins 1, 1, 2.2, 2.8, and three classes with four of 1, the others above 3
TWO = np.array([[1.0, 0.3], [0.2, -1.1], [3.0, 0.1], [0.4, -3.0]]), np.array([1, -1, 1, -1])
THREE = np.array([[1.0, 1.9], [-0.6, 1.2], [-2.0, -0.3], [3.6, 1.1]]), np.array([0, 1, 2, 0])


def late_flow(velocity, start, ends):
    """w at the times `ends`, against s = ln(1 + t)."""
    found = solve_ivp(
        lambda s, w: velocity(w) * np.exp(s), (0, np.log1p(ends[-1])), start, "DOP853",
        t_eval=np.log1p(ends), rtol=1e-13, atol=1e-13,
    )  # fmt: skip
    return found.y.T


def test_two_classes_by_scipy():
    x, y = TWO
    z = y[:, None] * x
    ends = np.array([1e4, 1e8, 1e12])
    law = cross_entropy.late_separator(x, y)
    assert law.complete
    alpha = cross_entropy.max_margin(x, y).multipliers
    rate = np.min(np.linalg.eigvalsh((alpha * z.T) @ z))
    assert rate < 1
    for start in ([0.0, 0.0], [0.7, -1.0]):
        w = late_flow(lambda w: z.T @ (1 / (1 + np.exp(z @ w))) / len(z), start, ends)
        off = np.linalg.norm(w - law.at(ends), axis=1)
        assert np.all(off < [3e-2, 1e-4, 1e-6])
        # what is left goes as t^{−μ}
        assert np.log(off[1] / off[2]) / np.log(1e4) == pytest.approx(rate, abs=0.02)
        cosine = w @ law.slope / np.linalg.norm(w, axis=1) / np.linalg.norm(law.slope)
        np.testing.assert_allclose(np.arccos(cosine[-1]), law.misalignment(ends[-1]), rtol=0.3)
    loss = np.mean(np.log1p(np.exp(-law.at(1e6) @ z.T)))
    assert loss * 1e6 == pytest.approx(np.sum(alpha), rel=1e-3)


def test_three_classes_by_scipy():
    x, y = THREE
    law, ends = cross_entropy.late_separator(x, y), np.array([1e4, 1e8, 1e12])
    assert law.complete

    def velocity(w):
        p = softmax(w.reshape(3, 2) @ x.T, axis=0)
        force = np.where(np.eye(3)[y].T > 0, 0.0, -p)
        force[y, np.arange(4)] = -np.sum(force, axis=0)  # 1 − p as a sum
        return (force @ x).ravel() / 4

    w = late_flow(velocity, np.zeros(6), ends).reshape(3, 3, 2)
    off = np.linalg.norm(w - law.at(ends), axis=(1, 2))
    assert np.all(off < [3e-2, 3e-6, 1e-9])


def test_the_late_logit():
    t = np.array([1e10, 1e100, 1e300])
    law = cross_entropy.late_logit(t)
    np.testing.assert_allclose(np.exp(law) / law, 2 * t, rtol=1e-12)
    for classes, start in ((2, 1e-3), (50, 1.0)):
        above = law - cross_entropy.etf_logit(classes, start, t)
        # a − ln a + ln(1 + 1/a + 2/a² + …) = ln 2t
        assert np.all(np.abs(above * law - 1 - 2.5 / law) < 12 / law**2)
    half = cross_entropy.late_logit(1e100, 0.5)
    assert 0.5 * half == pytest.approx(float(cross_entropy.late_logit(0.5e100)), rel=1e-14)
    assert cross_entropy.late_logit(math.inf) == math.inf


def test_refusals():
    with pytest.raises(ValueError, match="must be independent"):
        cross_entropy.late_separator([[1.0, 0.0], [1.0, 0.0]], [1, 1])
    with pytest.raises(ValueError, match="not linearly separable"):
        cross_entropy.late_separator([[1.0, 0.0], [-1.0, 0.0]], [1, 1])
    with pytest.raises(ValueError, match="late law"):
        cross_entropy.late_logit(1.0)
    with pytest.raises(ValueError, match="late law"):
        cross_entropy.late_separator(*TWO).at(0.5)
