"""The flow of factored leaves of every shape, chains and attention, against SciPy and loops."""

import itertools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import Matrix, Quadratic, gaussian
from scipy.integrate import solve_ivp

import gflow
from gflow.flow._build import build_flow
from gflow.models import LinearAttention, SoftmaxAttention
from gflow.parameters._factored import PlainFactors

# --- leaves of every shape, against SciPy ---------------------------------------------


class Zoo(eqx.Module):
    """Matrices of every kind added up, each behind a matrix of its own."""

    heads: gflow.Parameter
    wide: gflow.Parameter
    lora: gflow.Parameter
    hadamard: gflow.Parameter
    plain: jax.Array


class Together(eqx.Module):
    """½‖Σ_k P_k W_k − M‖² + ¼Σ(…)⁴ of one sum."""

    mixing: dict[str, jax.Array]
    target: jax.Array

    def __call__(self, model):
        total = -self.target
        for name, p in self.mixing.items():
            leaf = getattr(model, name)
            w = leaf.value if isinstance(leaf, gflow.Parameter) else leaf
            total = total + jnp.sum(p @ (w if w.ndim == 3 else w[None]), axis=0)
        return 0.5 * jnp.sum(total**2) + 0.25 * jnp.sum(total**4)


MIXING = {
    name: jnp.asarray(gaussian(2 if name == "heads" else 1, 3, 3, seed=20 + i))
    for i, name in enumerate(f.name for f in Zoo.__dataclass_fields__.values())
}
MIXING["plain"] *= 0.05  # or it would fit the target before the products have grown
TOGETHER = Together(MIXING, jnp.asarray(gaussian(3, 4, seed=11)))
RATES = {"wide": 0.05, "lora": 0.2, "hadamard": 0.1}


def zoo(alpha=1e-2):
    la = math.log(alpha)
    # five columns, of which one is nothing and another twice the first
    mixed = np.eye(5) + np.outer([1.0, 0, 0, 0, 0], [0, 0, 0, 2.0, 0])
    mixed[3:, 3:] = 0.0
    pairs = {
        "heads": (gaussian(2, 3, 2, seed=1), gaussian(2, 4, 2, seed=2)),
        "wide": (gaussian(3, 5, seed=5) @ mixed, gaussian(4, 5, seed=6) @ mixed),
        "lora": (gaussian(3, 2, seed=7), np.zeros((4, 2))),
    }
    leaves = {name: gflow.Factored(*pair, log_scale=la) for name, pair in pairs.items()}
    return Zoo(
        **leaves,
        hadamard=gflow.Hadamard.small((3, 4), log_alpha=la, key=jax.random.key(0)),
        plain=jnp.asarray(alpha * gaussian(3, 4, seed=10)),
    )


def scipy_zoo(model, objective, rates, times):
    """Effective weights and balances at `times`, from the plain factors."""
    plain = gflow.to_factors(model)
    pairs: dict[str, list[np.ndarray]] = {}
    for name in objective.mixing:
        leaf = getattr(plain, name)
        if isinstance(leaf, PlainFactors):
            pairs[name] = [np.asarray(leaf.left), np.asarray(leaf.right)]
        elif name == "hadamard":
            pairs[name] = [np.asarray(leaf.u), np.asarray(leaf.v)]
        else:
            pairs[name] = [np.asarray(leaf)]
    start = [x for pair in pairs.values() for x in pair]
    cuts = np.cumsum([x.size for x in start])[:-1]

    def unpack(y):
        parts = iter(x.reshape(s.shape) for x, s in zip(np.split(y, cuts), start, strict=True))
        return {name: [next(parts) for _ in pair] for name, pair in pairs.items()}

    def value(name, pair):
        if name == "plain":
            return pair[0]
        return pair[0] * pair[1] if name == "hadamard" else pair[0] @ pair[1].swapaxes(-1, -2)

    mixing = {name: np.asarray(p) for name, p in objective.mixing.items()}

    def field(t, y):
        now, rest = unpack(y), -np.asarray(objective.target)
        for name, pair in now.items():
            w = value(name, pair)
            rest = rest + sum(mixing[name] @ (w if w.ndim == 3 else w[None]))
        out = []
        for name, pair in now.items():
            g = -mixing[name].swapaxes(-1, -2) @ (rest + rest**3)
            g = g if name == "heads" else g[0]
            if name == "plain":
                out.append(g)
            elif name == "hadamard":
                out += [pair[1] * g, pair[0] * g]
            else:
                out += [g @ pair[1], g.swapaxes(-1, -2) @ pair[0]]
            rate = rates.get(name, 0.0)
            out[-len(pair) :] = [v - rate * x for v, x in zip(out[-len(pair) :], pair, strict=True)]
        return np.concatenate([x.ravel() for x in out])

    flat = np.concatenate([x.ravel() for x in start])
    end = float(times[-1])
    run = solve_ivp(field, (0.0, end), flat, "DOP853", times, rtol=1e-12, atol=1e-14)
    return [{name: value(name, pair) for name, pair in unpack(y).items()} for y in run.y.T]


TIMES = np.array([0.5, 2.0, 5.0, 10.0, 20.0])


def run_of(model, objective):
    return gflow.simulate(
        model,
        objective,
        t1=20.0,
        save=TIMES,
        decay=RATES,
        rtol=1e-11,
        solver=diffrax.Tsit5(),
        error_bars=False,
    )


@pytest.fixture(scope="module")
def zoo_run():
    return run_of(zoo(), TOGETHER)


@pytest.fixture(scope="module")
def zoo_exact():
    return scipy_zoo(zoo(), TOGETHER, RATES, TIMES)


def test_leaves_of_every_shape_against_scipy(zoo_run, zoo_exact):
    rows = np.searchsorted(zoo_run.t, TIMES)
    for row, exact in zip(rows, zoo_exact, strict=True):
        for name, value in exact.items():
            np.testing.assert_allclose(
                zoo_run.observables[name][row], value, rtol=0, atol=1e-8, err_msg=name
            )
    sizes = np.linalg.norm(zoo_run.observables["heads"][-1], axis=(-2, -1))
    assert np.all(sizes > 0.1), sizes  # the test is about weights that have grown


@pytest.mark.slow
def test_plain_factors_of_every_shape_against_scipy(zoo_exact):
    run = gflow.simulate(
        gflow.to_factors(zoo()), TOGETHER, t1=20.0, save=TIMES, decay=RATES, rtol=1e-11,
        solver=diffrax.Tsit5(), error_bars=False,
    )  # fmt: skip
    for row, exact in zip(np.searchsorted(run.t, TIMES), zoo_exact, strict=True):
        for name, value in exact.items():
            np.testing.assert_allclose(
                run.observables[name][row], value, rtol=0, atol=1e-8, err_msg=name
            )


def test_the_balance_decays_at_twice_the_rate_of_the_factors(zoo_run):
    """G' = −2λG in any gauge that turns with the columns, so its eigenvalues are e^{−2λt}."""
    start = zoo()
    for t in TIMES:
        model = zoo_run.model(t=t)
        for name in ("heads", "wide", "lora"):
            before, after = (
                np.linalg.eigvalsh(getattr(m, name).conserved()) for m in (start, model)
            )
            factor = math.exp(-2.0 * RATES.get(name, 0.0) * t)
            # against columns of size one
            np.testing.assert_allclose(after, factor * before, rtol=0, atol=1e-9, err_msg=name)
    assert np.max(np.abs(np.linalg.eigvalsh(start.heads.conserved()))) > 1e-4


def test_heads_and_columns_in_another_order_are_the_same(zoo_run):
    swap = jnp.array([1, 0])

    def reordered(model):
        heads = gflow.Factored(
            model.heads.left[swap], model.heads.right[swap], log_scale=model.heads.log_alpha
        )
        columns = jnp.array([3, 1, 4, 0, 2])
        wide = gflow.Factored(
            model.wide.left[:, columns],
            model.wide.right[:, columns],
            log_scale=model.wide.log_alpha,
        )
        return eqx.tree_at(lambda m: (m.heads, m.wide), model, (heads, wide))

    objective = Together({**MIXING, "heads": MIXING["heads"][swap]}, TOGETHER.target)
    run = run_of(reordered(zoo()), objective)
    one, two = (np.searchsorted(r.t, TIMES) for r in (zoo_run, run))
    np.testing.assert_allclose(run.loss[two], zoo_run.loss[one], rtol=0, atol=1e-10)
    for name in MIXING:
        before, after = zoo_run.observables[name][one], run.observables[name][two]
        after = after[:, swap] if name == "heads" else after
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-10)


# --- chains ---------------------------------------------------------------------------


def test_a_chain_multiplies_and_knows_its_balances():
    factors = [gaussian(2, 3, 4), gaussian(2, 4, 2, seed=1), gaussian(2, 2, 5, seed=2)]
    product = gflow.Product(*factors)
    a, b, c = factors
    np.testing.assert_allclose(product.value, a @ b @ c, rtol=0, atol=1e-13)
    first, second = product.conserved()
    np.testing.assert_allclose(
        first, a.swapaxes(-1, -2) @ a - b @ b.swapaxes(-1, -2), rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(
        second, b.swapaxes(-1, -2) @ b - c @ c.swapaxes(-1, -2), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_flow_of_a_chain_is_minus_the_gradient(depth):
    sizes = [3, 4, 2, 5, 3][: depth + 1]
    factors = [gaussian(*shape, seed=i) for i, shape in enumerate(itertools.pairwise(sizes))]
    model = Matrix(gflow.Product(*factors))
    n = sizes[0] * sizes[-1]
    root = gaussian(n, n, seed=9)
    objective = Quadratic(
        jnp.asarray(root @ root.T), jnp.asarray(gaussian(sizes[0], sizes[-1], seed=8))
    )
    gradient = eqx.filter_grad(objective)(model).weight.factors
    for rate in (0.0, 0.3):
        flow = build_flow(model, objective, decay=rate)
        found = flow.velocity(jnp.array(0.0), flow.start())
        expected = [-g - rate * w for g, w in zip(gradient, model.weight.factors, strict=True)]
        np.testing.assert_allclose(
            found, np.concatenate([x.ravel() for x in expected]), rtol=1e-12, atol=1e-12
        )


@pytest.mark.slow
def test_a_deep_chain_against_scipy_and_its_conserved_balances():
    factors = [0.3 * gaussian(3, 3, seed=i) for i in range(3)]
    model, target = Matrix(gflow.Product(*factors)), gaussian(3, 3, seed=7)
    objective = Quadratic(jnp.eye(9), jnp.asarray(target))
    times = np.array([1.0, 5.0, 15.0])
    run = gflow.simulate(model, objective, t1=15.0, save=times, rtol=1e-10, error_bars=False)

    def field(t, y):
        a, b, c = y.reshape(3, 3, 3)
        g = target - a @ b @ c
        return np.stack([g @ (b @ c).T, a.T @ g @ c.T, (a @ b).T @ g]).ravel()

    exact = solve_ivp(
        field, (0, 15.0), np.stack(factors).ravel(), "DOP853", times, rtol=1e-12, atol=1e-13
    ).y.T.reshape(-1, 3, 3, 3)
    rows = np.searchsorted(run.t, times)
    value = exact[:, 0] @ exact[:, 1] @ exact[:, 2]
    np.testing.assert_allclose(run.observables["weight"][rows], value, rtol=0, atol=1e-8)
    for one, two in zip(run.final.weight.conserved(), model.weight.conserved(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-8)
    half = gflow.simulate(model, objective, t1=5.0, rtol=1e-10, error_bars=False).final
    rest = gflow.simulate(half, objective, t1=15.0, rtol=1e-10, error_bars=False)
    np.testing.assert_allclose(rest.final.weight.value, value[-1], rtol=0, atol=1e-8)


# --- attention ------------------------------------------------------------------------


def test_attention_heads_token_by_token():
    """Query i attends to key j with weight softmax_j(scale · x_iᵀ KQ x_j)."""
    kq, vo = (
        gflow.Factored(gaussian(2, 3, 2), gaussian(2, 3, 2, seed=1)),
        gflow.Factored(gaussian(2, 3, 1, seed=2), gaussian(2, 3, 1, seed=3)),
    )
    x = gaussian(4, 3, seed=4)
    softmax, linear = np.zeros((4, 3)), np.zeros((4, 3))
    for h in range(2):
        a = np.asarray(kq.left[h] @ kq.right[h].T)
        v = np.asarray(vo.left[h] @ vo.right[h].T)
        for i in range(4):
            logits = np.array([0.7 * x[i] @ a @ x[j] for j in range(4)])
            share = np.exp(logits) / np.sum(np.exp(logits))
            for j in range(4):
                softmax[i] += share[j] * (x[j] @ v)
                linear[i] += logits[j] * (x[j] @ v)
    x = jnp.asarray(x)
    np.testing.assert_allclose(SoftmaxAttention(kq, vo, scale=0.7)(x), softmax, rtol=0, atol=1e-12)
    np.testing.assert_allclose(LinearAttention(kq, vo, scale=0.7)(x), linear, rtol=0, atol=1e-12)
    one = SoftmaxAttention(
        gflow.Factored(kq.left[0], kq.right[0]), gflow.Factored(vo.left[0], vo.right[0])
    )
    alone = SoftmaxAttention(
        gflow.Factored(kq.left[:1], kq.right[:1]), gflow.Factored(vo.left[:1], vo.right[:1])
    )
    np.testing.assert_allclose(one(x), alone(x), rtol=0, atol=1e-13)
