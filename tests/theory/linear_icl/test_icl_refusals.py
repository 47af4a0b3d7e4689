"""What is not predicted: the argument, what was given, what to do."""

import numpy as np
import pytest

from theory import linear_icl

LAM = [0.4, 0.3, 0.2, 0.1]
ONES = np.ones((2, 4))

CASES = {
    "negative": (lambda: linear_icl.plateaus([0.4, -0.1], 31), "positive semi-definite"),
    "zero": (lambda: linear_icl.plateaus([0.0, 0.0], 31), "not zero"),
    "matrix": (lambda: linear_icl.plateaus(np.eye(2), 31), "eigvalsh"),
    "context": (lambda: linear_icl.plateaus(LAM, 0), "context = 0.*at least 1"),
    "half a pair": (lambda: linear_icl.merged(LAM, 1.5, 0.1, 1.0), "context = 1.5"),
    "noise": (lambda: linear_icl.plateaus(LAM, 3, noise=-1.0), "noise = -1.0"),
    "float32": (lambda: linear_icl.plateaus(np.float32(LAM), 3), "float64"),
    "time": (lambda: linear_icl.merged(LAM, 3, 0.1, -1.0), "flow times"),
    "size": (lambda: linear_icl.merged(LAM, 3, 0.0, 1.0), "size = 0.0"),
    "sizes": (lambda: linear_icl.merged(LAM, 3, [0.1, 0.2], 1.0), "one number"),
    "dimension": (lambda: linear_icl.merged_white(0, 3, 0.1, 1.0), "dimension = 0"),
    "v0": (lambda: linear_icl.one_head(0.4, 1.0, 3, -0.1, 1.0), "returns to zero"),
    "trace": (lambda: linear_icl.one_head(0.4, 0.1, 3, 0.1, 1.0), "sum of all"),
    "mode sizes": (lambda: linear_icl.modes(LAM, 3, [0.1, 0.1], 1.0), "4 modes"),
    "rank": (
        lambda: linear_icl.head_times([1.0], np.ones((1, 2, 3)), np.ones((1, 2, 3)), [1, 2]),
        "R = 3",
    ),
    "shapes": (lambda: linear_icl.head_times([1.0], ONES, ONES, LAM), r"\(H, 4\)"),
    "ties": (
        lambda: linear_icl.drops([1e-3, 2e-3], 1e-3 * ONES, 1e-3 * ONES, [0.4, 0.2, 0.2, 0.1], 31),
        "0.2: which .* not determined",
    ),
    "rank two": (
        lambda: linear_icl.drops([1.0], np.ones((1, 4, 2)), np.ones((1, 4, 2)), LAM, 31), "R = 2"
    ),
    "two at once": (
        lambda: linear_icl.drops([1e-3, 1e-3], 1e-3 * ONES, 1e-3 * ONES, LAM, 31),
        "Heads 0 and 1 would make drop 1 .* within",
    ),
    "not small": (
        lambda: linear_icl.drops([1.0, 1e-3], [[1.0], [1e-3]], [[1.0], [1e-3]], [0.4], 3),
        "not small",
    ),
    "component": (
        lambda: linear_icl.drops([1e-3], [[0.0, 1e-3]], [[0.0, 1e-3]], [0.4, 0.3], 31),
        "Head 0 has no component along direction 0",
    ),
    "nothing grows": (
        lambda: linear_icl.aligned_size([1.0], [[[-1.0]]], [0.5]), "goes to zero"
    ),
    "merged shapes": (
        lambda: linear_icl.aligned_size([1.0], np.ones((2, 1, 1)), [0.5]), r"\(2, 1, 1\)"
    ),
    "matrices": (lambda: linear_icl.population_loss(np.eye(3), LAM, 31), "4 eigenvalues"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_sentence(name):
    call, words = CASES[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_two_heads_just_within_and_just_beyond():
    """T = 1/(λ²v₀) of two heads, a share of 1/(λ²κ) apart."""
    lam = 0.5
    kappa = np.cbrt(1 / (lam * (1 + 2 / 31)))
    for share, fails in ((0.9, True), (1.2, False)):
        v = np.array([1e-4, 1 / (1e4 + share / kappa)])
        if fails:
            with pytest.raises(ValueError, match="both become live"):
                linear_icl.drops(v, v[:, None], v[:, None], [lam], 31)
        else:
            assert linear_icl.drops(v, v[:, None], v[:, None], [lam], 31).heads[0] == 0
