"""Tokens through layers: plain matrices where floats see, closed forms where they do not."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from gflow import depth
from theory import depth_collapse, hopfield, token_reduction

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4))
QUERY, KEY = 0.5 * RNG.normal(size=(2, 2, 4, 3))
VALUE = 0.5 * RNG.normal(size=(2, 4, 4))
FIRST, SECOND = RNG.normal(size=(4, 7)), RNG.normal(size=(7, 4))


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(x):
    return sum(
        softmax(x @ q @ k.T @ x.T / math.sqrt(3)) @ x @ v
        for q, k, v in zip(QUERY, KEY, VALUE, strict=True)
    )


def layer_norm(x):
    x = x - x.mean(axis=1, keepdims=True)
    return x / x.std(axis=1, keepdims=True)


BLOCKS = {
    "attention": (depth.Attention(QUERY, KEY, VALUE), attention),
    "average": (depth.Average(jnp.asarray(VALUE[0])), lambda x: x * 0 + x.mean(0) @ VALUE[0]),
    "residual": (
        depth.Residual(depth.Attention(QUERY, KEY, VALUE), 0.3), lambda x: x + 0.3 * attention(x)
    ),
    "relu": (
        depth.MLP(jnp.asarray(FIRST), jnp.asarray(SECOND)),
        lambda x: np.maximum(x @ FIRST, 0.0) @ SECOND,
    ),
    "tanh": (
        depth.MLP(jnp.asarray(FIRST), jnp.asarray(SECOND), jnp.ones(7), jnp.tanh),
        lambda x: np.tanh(x @ FIRST + 1.0) @ SECOND,
    ),
    "layer norm": (depth.LayerNorm(jnp.arange(1.0, 5.0), jnp.ones(4)),
                   lambda x: layer_norm(x) * np.arange(1.0, 5.0) + 1.0),
    "batch norm": (depth.BatchNorm(), lambda x: (x - x.mean(0)) / x.std(0)),
    "batch norm, not centred": (
        depth.BatchNorm(centred=False), lambda x: x / np.sqrt(np.mean(x**2, axis=0))
    ),
    "linear": (
        depth.Linear(jnp.asarray(FIRST), jnp.arange(7.0)), lambda x: x @ FIRST + np.arange(7.0)
    ),
    "plain": (depth.Plain(lambda x: x + jnp.tanh(x[::-1])), lambda x: x + np.tanh(x[::-1])),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BLOCKS))
@pytest.mark.parametrize("size", [1.0, 0.02])
def test_a_block_is_what_its_matrices_say(name, size):
    block, plain = BLOCKS[name]
    x = X.mean(axis=0) + size * (X - X.mean(axis=0))
    found = eqx.filter_jit(lambda b, t: b(t))(block, depth.Tokens.of(jnp.asarray(x)))
    exact = plain(x)
    np.testing.assert_allclose(found.value, exact, rtol=0, atol=2e-13 * np.abs(exact).max())
    assert abs(float(jnp.sum(found.deviation))) < 1e-13


def high_precision(x, name):
    """The same blocks on mpmath matrices."""
    n, d = x.rows, x.cols
    if name == "attention":
        total = mp.zeros(n, d)
        for q, k, v in zip(QUERY, KEY, VALUE, strict=True):
            logits = x * mp.matrix(q) * mp.matrix(k).T * x.T / mp.sqrt(3)
            a = mp.matrix(n, n)
            for i in range(n):
                row = [mp.exp(logits[i, j]) for j in range(n)]
                for j in range(n):
                    a[i, j] = row[j] / sum(row)
            total += a * x * mp.matrix(v)
        return total
    if name == "layer norm":
        out = mp.matrix(n, d)
        for i in range(n):
            mean = sum(x[i, j] for j in range(d)) / d
            std = mp.sqrt(sum((x[i, j] - mean) ** 2 for j in range(d)) / d)
            for j in range(d):
                out[i, j] = (x[i, j] - mean) / std * (j + 1) + 1
        return out
    inner = x * mp.matrix(FIRST)
    for i in range(n):
        for j in range(inner.cols):
            inner[i, j] = mp.tanh(inner[i, j] + 1) if name == "tanh" else max(inner[i, j], 0)
    return inner * mp.matrix(SECOND)


@pytest.mark.parametrize("name", ["attention", "layer norm", "tanh", "relu"])
def test_what_is_below_rounding_is_right_to_its_own_digits(name):
    """Deviations of 1e-30, against 120 digits."""
    mean, apart = X.mean(axis=0), X - X.mean(axis=0)
    zero = jnp.zeros(())
    start = depth.Tokens.joined(
        (jnp.asarray(mean), zero), (jnp.asarray(apart), jnp.asarray(math.log(1e-30))),
        jnp.ones(6), zero,
    )  # fmt: skip
    found = BLOCKS[name][0](start)
    with mp.workdps(120):
        whole = mp.matrix([[mp.mpf(m) + mp.mpf("1e-30") * mp.mpf(a) for m, a in zip(mean, row,
                          strict=True)] for row in apart.tolist()])  # fmt: skip
        out = high_precision(whole, name)
        rest = mp.matrix(out.rows, out.cols)
        for j in range(out.cols):
            common = sum(out[i, j] for i in range(out.rows)) / out.rows
            for i in range(out.rows):
                rest[i, j] = out[i, j] - common
        size = mp.norm(mp.matrix(list(rest)), 2)
        unit = np.array([[float(rest[i, j] / size) for j in range(4)] for i in range(6)])
        log = float(mp.log(size))
    assert found.log_size == pytest.approx(log, abs=1e-11)
    np.testing.assert_allclose(found.deviation, unit, atol=1e-11)


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "keep", "fresh"),
    [("attention", 0.0, 1.0), ("leaky", 0.5, 0.5), ("accumulated", 1.0, 1.0)],
)
def test_layers_of_hidden_scores(kind, keep, fresh):
    block = depth.HiddenScores(jnp.asarray(1.0), jnp.asarray(keep), jnp.asarray(fresh))
    run = depth.follow(depth.Repeated(block, 30), jnp.eye(6))
    exact = hopfield.layer_sizes(6, 1.0, 30, kind)
    found = run.observables["log_residual"] - 0.5 * math.log(5.0)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)


def test_attention_cubes_what_tells_tokens_apart():
    block = depth.Attention(QUERY[0], KEY[0], VALUE[0])
    run = depth.follow(depth.Repeated(block, 200), jnp.asarray(0.3 * X))
    log = run.observables["log_residual"]
    assert np.all(run.resolved)
    slopes = np.diff(log[3:30])[1:] / np.diff(log[3:30])[:-1]
    np.testing.assert_allclose(slopes[2:], 3.0, rtol=1e-3)
    start = depth.Tokens.of(jnp.asarray(X.mean(0) + 1e-4 * (X - X.mean(0))))
    law = depth_collapse.cubic_residual(
        X.mean(0) + 1e-4 * (X - X.mean(0)), QUERY[0] @ KEY[0].T, VALUE[0], 1 / math.sqrt(3)
    )
    assert block(start).log_size == pytest.approx(math.log(np.linalg.norm(law)), abs=2e-3)


def test_equal_tokens_stay_equal():
    same = jnp.tile(jnp.asarray(X[:1]), (5, 1))
    run = depth.follow(depth.Repeated(depth.Residual(depth.Attention(QUERY, KEY, VALUE)), 20), same)
    assert np.all(run.observables["log_residual"] == -np.inf)
    assert np.all(run.observables["correlation"] == 1.0)


@pytest.mark.parametrize("alpha", [1.0, 1 / math.sqrt(12)])
def test_correlation_of_random_layers_within_its_interval(alpha):
    layers, n, d = 12, 5, 16
    start = np.linalg.qr(np.random.default_rng(1).normal(size=(d, n)))[0].T
    net = depth.Fresh(Mixing(jnp.asarray(alpha)), layers)
    run = depth.follow(net, jnp.asarray(start), key=jax.random.key(0), draws=400)
    squares = np.exp(2.0 * run.observables["log_norm"])
    ratio = np.exp(run.observables["log_apart"]) * squares * (n - 1) / n  # ‖R‖²
    sizes = depth_collapse.norms(np.arange(layers + 1), n, alpha, 0.0, float(n), float(n))
    apart = sizes.size - sizes.total / n
    for found, exact in ((squares, sizes.size), (ratio, apart)):
        error = np.std(found, axis=0, ddof=1) / 20.0
        assert np.all(np.abs(found.mean(0) - exact)[1:] <= 4.0 * error[1:] + 1e-12)
        assert np.all(error < 0.2 * exact)
    low, high = run.interval("log_norm")
    assert np.all(low[1:] < run.mean("log_norm")[1:])
    assert np.all(high - low < 0.5)
    again = depth.follow(net, jnp.asarray(start), key=jax.random.key(0), draws=400)
    np.testing.assert_array_equal(again.observables["log_norm"], run.observables["log_norm"])


class Mixing(depth.Block):
    """Makes a layer of uniform attention with a residual from a key."""

    alpha: jax.Array

    def __call__(self, key):
        return depth.Residual(depth.Average(jax.random.normal(key, (16, 16)) / 4.0), self.alpha)


def test_batch_normalisation_opens_a_gap_that_layers_alone_close():
    d, n, layers = 64, 4, 40
    one = np.random.default_rng(2).normal(size=(1, d))
    start = jnp.asarray(one + 0.1 * np.random.default_rng(3).normal(size=(n, d)))

    def last(block):
        run = depth.follow(
            depth.Fresh(block, layers), start, observables={"gap": depth.orthogonality_gap},
            key=jax.random.key(4),
        )  # fmt: skip
        return run.observables["gap"]

    def normalised(key):
        weight = jax.random.normal(key, (d, d)) / 8.0
        return depth.Chain((depth.Linear(weight), depth.BatchNorm(centred=False)))

    gaps = last(normalised)
    assert gaps[0] > 0.8
    assert gaps[-1] < 0.25
    plain = last(lambda key: depth.Linear(jax.random.normal(key, (d, d)) / 8.0))
    assert plain[-1] > 0.8


def test_merged_tokens_lose_their_scatter_and_count():
    groups = [0, 1, 0, 2, 0, 3]
    merged = depth.Merge(groups)(depth.Tokens.of(jnp.asarray(X)))
    exact = token_reduction.merge(X, [0, 2, 4])
    np.testing.assert_allclose(merged.value, exact.tokens, atol=1e-14)
    np.testing.assert_array_equal(merged.counts, exact.counts)
    left = float(np.sum((X - X.mean(0)) ** 2)) - exact.lost
    assert 2.0 * merged.log_size == pytest.approx(math.log(left), abs=1e-12)
    # equal tokens: attention of those that are kept is the same, with + ln m and only so
    same = X.copy()
    same[[2, 4]] = same[0]
    block = depth.Attention(QUERY, KEY, VALUE)
    whole = attention(same)[[0, 1, 3, 5]]
    tokens = depth.Tokens.of(jnp.asarray(same))
    found = block(depth.Merge(groups)(tokens)).value
    np.testing.assert_allclose(found, whole, atol=1e-13)
    other = block(depth.Merge(groups, counted=False)(tokens)).value
    assert np.max(np.abs(other - whole)) > 0.02


def test_fewer_tokens_by_merging_in_a_network_of_unlike_blocks():
    eye = jnp.eye(6)
    attend = depth.Attention(eye, eye, eye, 1.0)
    run = depth.follow([attend, depth.Merge([0, 0, 1, 1, 2, 2]), attend, attend], eye)
    assert len(run.layers) == 5
    assert run.final.counts.shape == (3,)
    assert run.observables["log_residual"][2] < run.observables["log_residual"][1]


# --- blocks of a user -------------------------------------------------------------------------


class Gated(depth.Block):
    value: jax.Array
    gate: jax.Array

    def __call__(self, tokens):
        mixed = depth.attend(tokens, tokens, tokens @ self.value, scale=0.5)
        return 0.7 * tokens + mixed + 0.1 * depth.pointwise(jnp.tanh, tokens @ self.gate)


def test_a_block_of_a_user_on_tokens_and_on_arrays():
    value, gate = 0.2 * jnp.asarray(VALUE[0]), jnp.asarray(VALUE[1])

    def plain(x):
        return 0.7 * x + jax.nn.softmax(0.5 * x @ x.T) @ x @ value + 0.1 * jnp.tanh(x @ gate)

    start = jnp.asarray(0.3 * X)
    exact = depth.follow(depth.Repeated(Gated(value, gate), 300), start)
    rough = depth.follow(depth.Repeated(plain, 300), start)
    assert exact.observables["log_residual"][-1] < -60.0  # far below rounding of X
    assert np.all(rough.resolved)
    np.testing.assert_allclose(
        rough.observables["log_residual"], exact.observables["log_residual"], atol=1e-8
    )


def test_a_plain_function_says_where_it_sees_nothing():
    def plain(x):
        return jax.nn.softmax(x @ x.T) @ x

    run = depth.follow(depth.Repeated(plain, 6), jnp.eye(6))
    exact = hopfield.layer_sizes(6, 1.0, 6) + 0.5 * math.log(5.0)
    seen = run.resolved
    assert list(seen[:4]) == [True] * 4
    assert not np.any(seen[4:])
    np.testing.assert_allclose(run.observables["log_residual"][:4], exact[:4], atol=1e-3)
    assert np.all(np.isnan(run.observables["log_residual"][4:]))
    assert "3 of them below the rounding" in repr(run)


def test_observables_of_attention():
    eye = jnp.eye(6)
    block = depth.Attention(eye, eye, eye, 1.0)
    watched = {"entropy": depth.attention_entropy, "rank": depth.effective_rank,
               "ipr": depth.participation}  # fmt: skip
    run = depth.follow(depth.Repeated(block, 4), eye, observables=watched)
    a = softmax(np.eye(6))
    entropy = -np.mean(np.sum(a * np.log(a), axis=1))
    assert run.observables["entropy"][0] == pytest.approx(entropy, rel=1e-12)
    assert run.observables["ipr"][0] == pytest.approx(np.mean(np.sum(a**2, axis=1)), rel=1e-12)
    assert run.observables["entropy"][-1] == pytest.approx(math.log(6.0), rel=1e-12)
    assert run.observables["rank"][0] == pytest.approx(6.0, rel=1e-12)
    assert run.observables["rank"][-1] == pytest.approx(1.0, abs=1e-6)


def test_what_does_not_fit_is_refused():
    eye, x = jnp.eye(4), jnp.asarray(X)
    good = depth.Attention(eye, eye, eye)
    constant = X.copy()
    constant[:, 1] = 0.1
    flat = X.copy()
    flat[2] = 0.3
    tokens = depth.Tokens.of(x)
    for call, words in (
        (lambda: depth.Tokens.of(jnp.ones(3)), "floats of shape"),
        (lambda: tokens @ jnp.eye(5), "tokens of width 4"),
        (lambda: tokens + tokens @ jnp.ones((4, 2)), "residual needs a block that keeps"),
        (lambda: depth.Attention(eye, jnp.eye(3), eye), "Attention has a query"),
        (lambda: depth.Repeated(good, 0), "layers = 0"),
        (lambda: depth.follow(depth.Repeated(good, 3), jnp.eye(5)), "tokens of width 5"),
        (lambda: depth.follow([], x), "sequence of blocks"),
        (lambda: depth.follow(depth.Fresh(lambda k: good, 3), x), "pass key="),
        (lambda: depth.follow(depth.Repeated(good, 3), x, draws=2), "pass key="),
        (lambda: depth.follow(depth.Repeated(depth.BatchNorm(), 2), jnp.asarray(constant)),
         "After layer 1 tokens are not finite.*BatchNorm"),
        (lambda: depth.follow(depth.Repeated(depth.LayerNorm(), 2), jnp.asarray(flat)),
         "After layer 1 tokens are not finite"),
        (lambda: depth.follow([depth.Merge([0, 1])], x), "2 tokens and is given 6"),
        (lambda: depth.Merge([0, 2]), "groups = "),
        (lambda: depth.follow([lambda x: x[:2]], x), "depth.Merge"),
        (lambda: depth.follow(depth.Repeated(good, 2), x).mean("correlation"), "over draws"),
        (lambda: depth.follow([depth.LayerNorm()], x, observables={"e": depth.participation}),
         "LayerNorm has none"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()
