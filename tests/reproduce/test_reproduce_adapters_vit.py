"""The share of a change in predicted directions: all, none, and what chance gives."""

import numpy as np
import pytest

from theory.reproduce.adapters_vit import measure
from theory.reproduce.post_training.network.measure import seen


@pytest.fixture
def predicted():
    """Two heads, the first of rank one, the second not learned."""
    rng = np.random.default_rng(0)
    first = np.outer(rng.normal(size=5), rng.normal(size=7))
    return {"value": np.stack([first, np.zeros((5, 7))])}


def test_ranks_of_what_is_predicted(predicted):
    one, none = measure._bases(predicted["value"])
    assert [one[0].shape, one[1].shape] == [(5, 1), (7, 1)]
    assert none[0].shape == (5, 0)


def test_a_share_of_all_and_of_nothing(predicted):
    bases = {"value": measure._bases(predicted["value"])}
    (u, v), _ = bases["value"]
    other = predicted["value"] + 1.0
    assert measure._share({"value": 3.0 * predicted["value"]}, bases) == pytest.approx(1.0)
    assert measure._share({"value": other - u @ (u.T @ other)}, bases) == pytest.approx(0.0)
    assert measure._share({"value": other - (other @ v) @ v.T}, bases) == pytest.approx(0.0)


def test_by_chance_a_share_of_one_over_the_entries(predicted):
    """Of a matrix of 5 × 7 a random pair of directions holds 1/35 of the squares, on average."""
    rng = np.random.default_rng(1)
    bases = measure._bases(predicted["value"])
    change = {"value": rng.normal(size=(2, 5, 7))}
    shares = [
        measure._share(change, {"value": [measure._turned(b, rng) for b in bases]})
        for _ in range(4000)
    ]
    assert np.mean(shares) == pytest.approx(1 / 35, rel=0.1)


def test_rotations_and_scales_of_a_known_change():
    rng = np.random.default_rng(2)
    u, v = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    s = np.array([4.0, 3.0, 2.0, 1.0])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    before = (u * s) @ v.T
    together, spread = seen(before, (u @ turn * (1.5 * s)) @ (v @ turn).T)
    assert together == pytest.approx(1.0)
    assert spread == pytest.approx(0.0, abs=1e-12)
    against, _ = seen(before, (u @ turn * s) @ (v @ turn.T).T)
    assert against == pytest.approx(-1.0)
    _, uneven = seen(before, (u * (s * [1.2, 1.0, 1.2, 1.0])) @ v.T)
    assert uneven == pytest.approx(0.5 * np.log(1.2))
