"""Merged and fewer tokens: identities and laws against full matrices."""

import itertools
import math

import numpy as np
import pytest

from theory import token_reduction as reduction


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_attention_acts_on_the_high_frequencies_alone():
    rng = np.random.default_rng(0)
    a, x = softmax(rng.normal(size=(6, 6))), rng.normal(size=(6, 3))
    high = reduction.high_frequency
    np.testing.assert_allclose(high(a @ x), high((a - 1 / 6) @ high(x)), atol=4e-15)
    bound = np.linalg.norm(a - a.mean(axis=0), 2) * np.linalg.norm(high(x))
    assert np.linalg.norm(high(a @ x)) <= bound


def test_what_a_merger_loses():
    x = np.random.default_rng(1).normal(size=(7, 3))
    merged = reduction.merge(x, [1, 4, 5])
    np.testing.assert_array_equal(merged.counts, [3, 1, 1, 1, 1])
    left = reduction.high_frequency(merged.tokens, merged.counts)
    whole = np.sum(reduction.high_frequency(x) ** 2)
    kept = np.sum(merged.counts[:, None] * left**2)
    assert kept + merged.lost == pytest.approx(whole, rel=1e-14)
    assert merged.lost > 0.1
    best = min(itertools.combinations(range(7), 3), key=lambda s: reduction.merge(x, s).lost)
    sets = list(itertools.combinations(range(7), 3))
    most = max(
        np.sum(m.counts[:, None] * reduction.high_frequency(m.tokens, m.counts) ** 2)
        for m in (reduction.merge(x, s) for s in sets)
    )
    assert whole - reduction.merge(x, best).lost == pytest.approx(most, rel=1e-13)


def kept_attention(x, members, weights, shift):
    """Attention of the tokens outside of the set, the set merged."""
    merged = reduction.merge(x, members)
    logits = merged.tokens @ weights @ merged.tokens.T
    if shift:
        logits = reduction.merged_logits(logits, merged.counts)
    return (softmax(logits) @ merged.tokens)[1:]


def test_equal_tokens_merge_exactly_with_the_logarithm_of_their_number():
    rng = np.random.default_rng(2)
    x, weights, members = rng.normal(size=(7, 3)), rng.normal(size=(3, 3)), [0, 2, 3]
    x[members] = x[0]
    whole = np.delete(softmax(x @ weights @ x.T) @ x, members, axis=0)
    np.testing.assert_allclose(kept_attention(x, members, weights, True), whole, atol=2e-15)
    assert np.max(np.abs(kept_attention(x, members, weights, False) - whole)) > 0.05
    errors = []
    for size in (1e-2, 1e-3):
        near = x.copy()
        near[members] += size * rng.normal(size=(3, 3))
        whole = np.delete(softmax(near @ weights @ near.T) @ near, members, axis=0)
        errors.append(np.max(np.abs(kept_attention(near, members, weights, True) - whole)))
    assert math.log10(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.7)


def test_fewer_tokens_collapse_later():
    known = {
        12: [0.1252548861, 1.648322236e-4, 3.73202987e-13, 4.331657271e-39],
        6: [0.222624914, 1.869452369e-3, 1.08891121e-9, 2.151920171e-28],
    }
    sizes = {n: reduction.layer_sizes([n] * 4, 1.0) for n in known}
    for n, values in known.items():
        np.testing.assert_allclose(np.exp(sizes[n][1:]), values, rtol=1e-9)
    gain = sizes[6] - sizes[12]
    assert gain[4] / gain[3] == pytest.approx(3.0, rel=0.05)
    assert reduction.merge_factor(12, 6, 1e-6) == pytest.approx(1.999999833, abs=5e-10)
    one = [reduction.layer_sizes([n], 1.0, 0.7)[-1] for n in (12, 6)]
    assert math.exp(one[1] - one[0]) == pytest.approx(
        float(reduction.merge_factor(12, 6, 0.49)), rel=1e-13
    )
    assert reduction.merge_factor(12, 6, 1e4) == 1.0


def boosted(n, beta, rho, boost):
    """One layer of A^{LP} + (1 + ω)A^{HP} on simplex tokens, by full matrices."""
    x = rho * (np.eye(n) - 1 / n)
    a = softmax(beta * x @ x.T)
    a = 1 / n + (1 + boost) * (a - 1 / n)
    return np.linalg.norm(a @ x) / math.sqrt(n - 1)


def test_a_boost_has_a_threshold():
    threshold = float(reduction.boost_threshold(6, 4.0, 0.5))
    assert threshold == pytest.approx(0.800772963682831, abs=2e-15)
    assert boosted(6, 4.0, threshold, 0.5) == pytest.approx(threshold, rel=1e-13)
    below, above = (
        reduction.layer_sizes([6] * 12, 4.0, threshold * side, 0.5) for side in (0.98, 1.02)
    )
    assert below[-1] < -100.0
    assert np.diff(above)[-1] == pytest.approx(math.log(1.5), rel=1e-6)
    ratios = below[-2:] + 0.5 * math.log(4.0 * 1.5 / 6.0)
    assert ratios[1] / ratios[0] == pytest.approx(3.0, rel=1e-6)
    assert math.exp(reduction.layer_sizes([6], 4.0, 0.6, 0.5)[1]) == pytest.approx(
        boosted(6, 4.0, 0.6, 0.5), rel=1e-13
    )


def test_what_does_not_fit_is_refused():
    for call, words in (
        (lambda: reduction.boost_threshold(6, 4.0, 0.0), "boost = 0.0"),
        (lambda: reduction.merge_factor(12, 1, 0.1), "after = 1"),
        (lambda: reduction.merge_factor(12, 6, -0.1), "delta = -0.1"),
        (lambda: reduction.merge(np.eye(3), [0, 0]), "members = "),
        (lambda: reduction.merge(np.eye(3), [3]), "members = "),
        (lambda: reduction.merged_logits(np.zeros((2, 3)), [1, 2]), "one size for each key"),
        (lambda: reduction.high_frequency(np.eye(3), [1, 2]), "weights = "),
        (lambda: reduction.layer_sizes([1], 1.0), "tokens = "),
    ):
        with pytest.raises(ValueError, match=words):
            call()
