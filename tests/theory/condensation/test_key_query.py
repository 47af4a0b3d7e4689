"""The escape of a transformer and the rank collapse of its keys and queries; what is refused.

F: autodiff of a transformer. Keys and queries: exponentials of the stacked matrix at 400 digits,
and DOP853.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_data
from chain_starts import arrays, normal, relative, start
from scipy.integrate import solve_ivp

from theory import condensation as co

REFERENCE = reference_data.load("condensation")


# ---- the whole transformer --------------------------------------------------------------------


def transformer(weights, x, activation=jnp.tanh):
    """The last token's output: (n, s, d) to (n,)."""
    q, k, v, w1, w2 = weights
    logits = jnp.einsum("nd,de,nse->ns", x[:, -1], q @ k.T, x) / math.sqrt(x.shape[-1])
    pooled = jnp.einsum("ns,nsd->nd", jax.nn.softmax(logits, axis=-1), x)
    return activation(pooled @ v @ w1) @ w2


LOSSES = {"exponential": lambda q: jnp.exp(-q), "logistic": lambda q: jnp.logaddexp(0.0, -q)}


def data(seed, n=12, s=5, d=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, s, d)) + 0.5
    return x, np.where(rng.random(n) < 0.6, 1.0, -1.0)


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_key_query_matrix_against_autodiff(activation, loss):
    x, y = data(0)
    d, h = 3, 4
    value, inner, readout = normal(1, d, d), normal(2, d, h), normal(3, h)
    act = {"tanh": jnp.tanh, "linear": lambda z: z}[activation]

    def risk(product):
        out = transformer((product, jnp.eye(d), value, inner, readout), jnp.asarray(x), act)
        return jnp.mean(LOSSES[loss](y * out))

    expected = -jax.grad(risk)(jnp.zeros((d, d)))
    f = co.key_query_matrix(x, y, value, inner, readout, activation=activation, loss=loss)
    np.testing.assert_allclose(f, expected, rtol=1e-12, atol=1e-14)
    column = co.key_query_matrix(
        x, y, value, inner, readout[:, None], activation=activation, loss=loss
    )
    np.testing.assert_array_equal(column, f)


def test_same_last_token_means_rank_one():
    x, y = data(4)
    x[:, -1] = x[0, -1]
    f = co.key_query_matrix(x, y, normal(1, 3, 3), normal(2, 3, 3), normal(3, 3))
    s = np.linalg.svd(f, compute_uv=False)
    assert s[1] < 1e-15 * s[0] * 10


@pytest.mark.parametrize(("loss", "slope"), [("exponential", 1.0), ("logistic", 0.5)])
def test_escape_of_the_transformer(loss, slope):
    x, y = data(5)
    d, w = 3, 0.05
    v, m = co.condensation_direction(x, y)
    q, k, value, inner, readout = (normal(s, d, d) for s in range(20, 25))
    readout = readout[:, 0]
    flow = v @ value, inner, readout
    time = co.blow_up_time(*flow)
    shapes = [(d, d)] * 4 + [(d,)]
    splits = np.cumsum([math.prod(s) for s in shapes])[:-1].tolist()

    def unpack(z):
        return [p.reshape(s) for p, s in zip(jnp.split(z, splits), shapes, strict=True)]

    @jax.jit
    def field(z):
        def risk(z):
            return jnp.mean(LOSSES[loss](y * transformer(unpack(z), jnp.asarray(x))))

        return -jax.grad(risk)(z)

    off = []
    for eps in (1e-3, 2.5e-4):
        z = eps * np.concatenate([u.ravel() for u in (q, k, value, inner, readout)])

        def level(_, z):
            return np.linalg.norm(z[-d:]) - w

        level.terminal = True
        bound = 2 * float(time) / (eps * m * slope)
        run = solve_ivp(
            lambda _, z: np.asarray(field(z)), (0, bound), z, "DOP853",
            events=level, rtol=1e-9, atol=1e-12 * eps,
        )  # fmt: skip
        assert run.t_events[0].size == 1
        predicted = co.escape_time(time, eps, m, w, slope)
        off.append(abs(run.t[-1] / predicted - 1))
        # the second term is ε/(wT*) of the first
        assert off[-1] < 0.05 * eps / (w * time)
        stay = [z.reshape(3, 3) for z in np.split(run.y[:18, -1] / eps, 2)]
        assert max(relative(s, g) for s, g in zip(stay, (q, k), strict=True)) < 0.02
    # the relative error is O(ε) at the least
    assert off[1] < off[0] / 4


def test_condensation_direction():
    x, y = data(6)
    v, m = co.condensation_direction(x, y)
    total = sum(label * np.mean(tokens, axis=0) for label, tokens in zip(y, x, strict=True))
    np.testing.assert_allclose(m * v * len(y), total, rtol=1e-13)
    assert np.linalg.norm(v) == pytest.approx(1, rel=1e-15)


# ---- keys and queries -------------------------------------------------------------------------


def test_key_query_against_400_digits():
    ref = REFERENCE["key_query"]
    q, k = co.key_query(ref["F"], ref["Q0"], ref["K0"], ref["t"])
    directions = co.key_query_directions(ref["F"], ref["Q0"], ref["K0"], ref["t"])
    for i, t in enumerate(ref["t"]):
        for ours, name, log, unit in (
            (q, "Q", directions.log_query, directions.query),
            (k, "K", directions.log_key, directions.key),
        ):
            true = arrays(ref[name][i])
            norm = float(np.linalg.norm(true / 1e100)) * 1e100 if t > 100 else np.linalg.norm(true)
            # e^(σt) has the relative condition σt
            np.testing.assert_allclose(ours[i], true, rtol=1e-15 * (20 + 30 * t))
            assert log[i] == pytest.approx(math.log(norm), rel=1e-14, abs=1e-14)
            np.testing.assert_allclose(unit[i], true / norm, rtol=1e-14 * (20 + 3 * t))


@pytest.mark.parametrize(("rows", "columns", "seed"), [(3, 3, 0), (2, 4, 1), (4, 2, 2)])
def test_key_query_against_scipy(rows, columns, seed):
    f, q0, k0 = normal(seed, rows, columns), normal(seed + 5, rows, 2), normal(seed + 9, columns, 2)
    f *= 2 / np.linalg.norm(f, 2)
    times = np.array([0.0, 0.3, 1.0, 2.5])

    def field(_, y):
        q, k = y[: 2 * rows].reshape(rows, 2), y[2 * rows :].reshape(columns, 2)
        return np.concatenate([(f @ k).ravel(), (f.T @ q).ravel()])

    y = np.concatenate([q0.ravel(), k0.ravel()])
    run = solve_ivp(field, (0, 2.5), y, "DOP853", times, rtol=1e-13, atol=1e-14)
    q, k = co.key_query(f, q0, k0, times)
    np.testing.assert_allclose(q, run.y[: 2 * rows].T.reshape(-1, rows, 2), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        k, run.y[2 * rows :].T.reshape(-1, columns, 2), rtol=1e-9, atol=1e-11
    )
    np.testing.assert_array_equal(q[0], q0)
    np.testing.assert_array_equal(k[0], k0)
    gram = np.swapaxes(q, -1, -2) @ q - np.swapaxes(k, -1, -2) @ k
    scale = float(np.max(np.abs(q))) ** 2
    np.testing.assert_allclose(gram, np.broadcast_to(gram[0], gram.shape), atol=1e-13 * scale)
    # t of any shape, and going on from the middle
    assert co.key_query(f, q0, k0, 1.0)[0].shape == (rows, 2)
    assert co.key_query(f, q0, k0, np.ones((2, 1, 3)))[1].shape == (2, 1, 3, columns, 2)
    on = co.key_query(f, *co.key_query(f, q0, k0, 1.0), 1.5)
    for x, y in zip(on, (q[-1], k[-1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)


def test_huge_times():
    f, q0, k0 = normal(0, 3, 3), normal(1, 3, 2), normal(2, 3, 2)
    limit = co.key_query_limit(f, q0, k0)
    assert (limit.rank, limit.multiplicity) == (1, 1)
    for t in (1e3, 1e6, 1e12):
        late = co.key_query_directions(f, q0, k0, t)
        np.testing.assert_allclose(late.query, limit.query, atol=1e-14)
        np.testing.assert_allclose(late.key, limit.key, atol=1e-14)
        assert late.log_query / t == pytest.approx(np.linalg.norm(f, 2), rel=2 / t)
    with pytest.raises(ValueError, match="key_query_directions"):
        co.key_query(f, q0, k0, 1e3)
    # tiny weights that are still finite where e^(σt) is not
    late = 720 / np.linalg.norm(f, 2)
    q, _ = co.key_query(f, 1e-20 * q0, 1e-20 * k0, late)
    d = co.key_query_directions(f, q0, k0, late)
    expected = math.exp(float(d.log_query) - 20 * math.log(10)) * d.query
    np.testing.assert_allclose(q, expected, rtol=1e-11)
    # a decaying start stays one, and small keys from none keep their digits
    u, s, vt = np.linalg.svd(f)
    dying, _ = co.key_query(f, np.outer(u[:, 2], [1.0, 2.0]), -np.outer(vt[2], [1.0, 2.0]), 1.0)
    np.testing.assert_allclose(dying, math.exp(-s[2]) * np.outer(u[:, 2], [1.0, 2.0]), atol=1e-14)
    _, k = co.key_query(f, q0, 0 * k0, 1e-12)
    np.testing.assert_allclose(k, 1e-12 * f.T @ q0, rtol=1e-13)


def test_rates_of_collapse():
    sigma = np.array([2.0, 1.2, 0.5])
    u, v = (np.linalg.qr(normal(s, 3, 3))[0] for s in (0, 1))
    f, q0, k0 = u @ np.diag(sigma) @ v.T, normal(2, 3, 3), normal(3, 3, 3)
    limit = co.key_query_limit(f, q0, k0)
    assert limit.rate == pytest.approx(0.8, rel=1e-12)
    t = np.array([8.0, 10.0])
    path = co.key_query_directions(f, q0, k0, t)
    off = np.linalg.norm(path.query - limit.query, axis=(-2, -1))
    assert math.log(off[0] / off[1]) == pytest.approx(0.8 * 2, rel=0.02)
    srank = np.linalg.norm(path.query, 2, axis=(-2, -1)) ** -2 - 1
    assert math.log(srank[0] / srank[1]) == pytest.approx(2 * 0.8 * 2, rel=0.02)
    # W_Q and W_K share the right vector
    assert abs(np.linalg.svd(limit.query)[2][0] @ np.linalg.svd(limit.key)[2][0]) > 1 - 1e-12
    np.testing.assert_allclose(np.abs(np.linalg.svd(limit.query)[0][:, 0]), np.abs(u[:, 0]))
    np.testing.assert_allclose(np.abs(np.linalg.svd(limit.key)[0][:, 0]), np.abs(v[:, 0]))
    # the plateau: slope 1/σ₁, rank left ∝ ε^{2(1 − σ₂/σ₁)}
    ends = [co.plateau(f, eps * q0, eps * k0, 0.5) for eps in (1e-6, 1e-9)]
    decades = math.log(1e3)
    still_to_come = ends[0].query_rank - 1
    assert ends[1].length - ends[0].length == pytest.approx(decades / 2.0, abs=still_to_come)
    slope = math.log((ends[0].query_rank - 1) / (ends[1].query_rank - 1)) / decades
    assert slope == pytest.approx(2 * (1 - 0.6), rel=1e-3)
    q, _ = co.key_query(f, 1e-6 * q0, 1e-6 * k0, ends[0].length)
    assert np.linalg.norm(q) == pytest.approx(0.5, rel=1e-12)


def test_ties():
    u, v = (np.linalg.qr(normal(s, 4, 4))[0] for s in (0, 1))
    f = u @ np.diag([2.0, 2.0, 1.0, 0.3]) @ v.T
    q0, k0 = normal(2, 4, 3), normal(3, 4, 3)
    limit = co.key_query_limit(f, q0, k0)
    assert (limit.rank, limit.multiplicity) == (2, 2)
    assert limit.rate == pytest.approx(1.0, rel=1e-12)
    late = co.key_query_directions(f, q0, k0, 40.0)
    np.testing.assert_allclose(late.query, limit.query, atol=1e-12)
    np.testing.assert_allclose(late.key, limit.key, atol=1e-12)
    # a head of width one has rank one whatever the ties
    assert co.key_query_limit(f, q0[:, :1], k0[:, :1]).rank == 1
    # all modes alike: what decays, e^{−2σt}, sets the rate
    assert co.key_query_limit(np.eye(2), q0[:2], k0[:2]).rate == pytest.approx(2.0)


# ---- what is refused --------------------------------------------------------------------------

A, B, C = start(0, 3)
F, Q, K = normal(1, 3, 3), normal(2, 3, 2), normal(3, 3, 2)
X, Y = data(1)
SQUARE = normal(4, 3, 3)
REFUSED = {
    "chain": (lambda: co.blow_up_time(A, B[:, :2], C), r"B \(3, 2\).*\(m, n\)"),
    "column": (lambda: co.blow_up_time(A, B, C[:, None]), "c .*3, 1"),
    "float32": (lambda: co.blow_up_time(A.astype(np.float32), B, C), "float64"),
    "NaN": (lambda: co.blow_up_bounds(A, B * math.nan, C), "B contains NaN"),
    "at rest": (lambda: co.blow_up_time(0 * A, B, 0 * C), "never blows up.*at rest"),
    "alone": (lambda: co.blow_up_bounds(A, 0 * B, 0 * C), "never blows up"),
    "stable": (lambda: co.blow_up_time([1.3], [[-0.9]], [0.9]), "never blows up.*two smallest"),
    "stable, turned": (
        lambda: co.blow_up_time(np.array([0.6, 0.8]), -0.9 * np.outer([0.6, 0.8], [0.28, 0.96]),
                                0.9 * np.array([0.28, 0.96])),
        "blow",
    ),
    "two zeros": (lambda: co.rank_one_blow_up(1.0, [0.0, 1.0], 0.0), r"\(1, 0, 0\) never"),
    "no broadcast": (lambda: co.rank_one_blow_up([1.0, 2.0], [1.0, 2.0, 3.0], 1.0), "broadcast"),
    "key chain": (lambda: co.key_query(F, Q.T, K, 1.0), "enter transposed"),
    "key float32": (lambda: co.key_query(F.astype(np.float32), Q, K, 1.0), "F is float32"),
    "key time": (lambda: co.key_query(F, Q, K, -1.0), "flow times"),
    "key end": (lambda: co.key_query(F, Q, K, math.inf), "key_query_limit"),
    "no F": (lambda: co.key_query_limit(0 * F, Q, K), "stand still"),
    "not excited": (
        lambda: co.key_query_limit(np.diag([2.0, 1.0]), [[1.0], [1.0]], [[-1.0], [0.0]]),
        "no part in the 1 top"),
    "no weights": (lambda: co.key_query_directions(F, 0 * Q, 0 * K, 1.0), "vanishes"),
    "level": (lambda: co.plateau(F, Q, K, 1e-3), "above"),
    "no direction": (lambda: co.condensation_direction(np.stack([X[0], X[0]]), [1.0, -1.0]),
                     "no condensation direction"),
    "labels": (lambda: co.condensation_direction(X, 0 * Y), "labels"),
    "tokens": (lambda: co.condensation_direction(X[0], Y), r"\(n, s, d\)"),
    "epsilon": (lambda: co.escape_time(1.0, 0.0, 1.0), "epsilon"),
    "level below": (lambda: co.escape_time(1.0, 1e-3, 1.0, 1e-4), "below the start"),
    "activation": (
        lambda: co.key_query_matrix(X, Y, SQUARE, SQUARE, A, activation="relu"), "'tanh' or"),
    "outer": (lambda: co.key_query_matrix(X, Y, SQUARE, SQUARE, SQUARE), "readout"),
    "cosines": (lambda: co.value_cosines(SQUARE, A, A[:2]), "direction @ value"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
