"""Observables of factors, along runs and of models, against NumPy and the laws of the flow."""

import itertools

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import gflow
from gflow import observables

TARGET = np.array([[1.0, 0.3, 0.0], [0.0, 0.5, 0.2], [0.1, 0.0, -0.4]])
READ = {
    name: getattr(observables, name)("w")
    for name in ("balance", "gap", "alignment", "spectrum", "stable_rank", "effective_rank")
}
SETTINGS = {"t1": 6.0, "error_bars": False, "solver": diffrax.Tsit5(), "observables": READ}


def distance(model):
    return 0.5 * jnp.sum((model["w"].value - TARGET) ** 2)


def factors():
    rng = np.random.default_rng(3)
    return 0.4 * rng.normal(size=(3, 2)), 0.4 * rng.normal(size=(3, 2))


def leaves():
    a, b = factors()
    wide = gflow.Factored(a, b)
    return {"gauge": wide, "plain": gflow.to_factors(wide), "chain": gflow.Product(a, b.T)}


@pytest.mark.parametrize("form", [lambda x: x, gflow.to_factors], ids=["gauge", "plain"])
def test_a_square_has_one_factor_and_nothing_to_balance(form):
    x = factors()[0]
    run = gflow.simulate({"w": form(gflow.Symmetric(x, x))}, distance, **SETTINGS)
    for name, read in READ.items():
        np.testing.assert_allclose(
            read(run.final), run.observables[name][-1], rtol=1e-9, atol=1e-12
        )
    assert run.observables["balance"].shape == (len(run.t), 0)
    np.testing.assert_allclose(run.observables["gap"], 0.0, atol=1e-28)
    np.testing.assert_allclose(run.observables["alignment"], 1.0, rtol=1e-12)


@pytest.fixture(scope="module", params=["gauge", "plain", "chain"])
def run(request):
    return gflow.simulate({"w": leaves()[request.param]}, distance, rtol=1e-10, **SETTINGS)


def test_the_start_is_what_numpy_makes_of_the_factors(run):
    a, b = factors()
    _u, s, _vt = np.linalg.svd(a @ b.T)
    seen = {name: run.observables[name][0] for name in READ}
    np.testing.assert_allclose(seen["balance"], np.linalg.eigvalsh(a.T @ a - b.T @ b), atol=1e-14)
    half = 0.5 * (np.sum(a**2) + np.sum(b**2))
    assert seen["gap"] == pytest.approx(half - np.sum(s), rel=1e-12)
    across = np.linalg.svd(a)[2][0] @ np.linalg.svd(b.T)[0][:, 0]
    assert seen["alignment"] == pytest.approx([abs(across)], rel=1e-12)
    np.testing.assert_allclose(seen["spectrum"], s, atol=1e-15)
    assert seen["stable_rank"] == pytest.approx(np.sum(s**2) / s[0] ** 2, rel=1e-12)
    p = s[:2] / np.sum(s[:2])
    assert seen["effective_rank"] == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-12)


def test_the_balance_stays_and_the_weight_does_not(run):
    kept = run.observables["balance"]
    assert np.max(np.abs(kept - kept[0])) < 1e-8 * np.max(np.abs(kept[0]))
    assert np.ptp(run.observables["spectrum"], axis=0).max() > 0.5


def test_they_are_of_the_final_model_what_they_are_at_the_end(run):
    for name, read in READ.items():
        np.testing.assert_allclose(
            read(run.final), run.observables[name][-1], rtol=1e-9, atol=1e-12
        )


def test_under_decay_the_balance_dies_at_twice_its_rate():
    a, b = factors()
    run = gflow.simulate({"w": gflow.Factored(a, b)}, distance, decay=0.2, rtol=1e-10, **SETTINGS)
    law = np.exp(-2.0 * 0.2 * run.t)[:, None] * run.observables["balance"][0]
    np.testing.assert_allclose(run.observables["balance"], law, atol=1e-9)


def test_of_entries_the_balance_has_their_signs():
    u, v = np.array([0.3, -0.2, 0.1]), np.array([-0.1, 0.4, 0.05])
    for leaf in (gflow.Hadamard(u, v), gflow.to_factors(gflow.Hadamard(u, v))):
        run = gflow.simulate(
            {"w": leaf}, lambda m: 0.5 * jnp.sum((m["w"].value - 1.0) ** 2), t1=3.0,
            error_bars=False, solver=diffrax.Tsit5(),
            observables={
                "balance": READ["balance"], "u": lambda m: m["w"].factors[0],
                "conserved": lambda m: m["w"].conserved(),
            },
        )  # fmt: skip
        np.testing.assert_allclose(run.observables["u"][0], u, rtol=1e-12)
        for name in ("balance", "conserved"):
            seen = run.observables[name]
            np.testing.assert_allclose(seen, np.broadcast_to(u**2 - v**2, seen.shape), rtol=1e-6)


def test_balanced_layers_are_aligned():
    """Of a deep chain with WᵢᵀWᵢ = Wᵢ₊₁Wᵢ₊₁ᵀ neighbours share their singular vectors."""
    rng = np.random.default_rng(0)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(4)]
    sizes = np.diag([0.9, 0.5, 0.2])
    chain = gflow.Product(*(p @ sizes @ q.T for p, q in itertools.pairwise(turns)))
    np.testing.assert_allclose(observables.alignment("")(chain), [1.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(observables.balance("")(chain), np.zeros(6), atol=1e-14)
    skew = gflow.Product(turns[0] @ sizes, sizes @ linalg.expm(np.triu(np.ones((3, 3)), 1)))
    assert observables.alignment("")(skew)[0] < 0.99


def test_a_weight_that_is_zero_has_rank_zero():
    for name in ("stable_rank", "effective_rank"):
        assert getattr(observables, name)("w")({"w": jnp.zeros((2, 3))}) == 0.0
        assert getattr(observables, name)("w")({"w": jnp.ones((2, 3))}) == pytest.approx(1.0)


def refused(read, model, match):
    with pytest.raises(ValueError, match=match):
        read(model)


def test_what_cannot_be_read_is_refused_in_a_sentence():
    vector = gflow.Hadamard(np.array([0.1, 0.2]), np.array([0.2, 0.1]))
    refused(READ["gap"], {"w": vector}, "Leaf 'w': .*no product of matrices")
    refused(READ["spectrum"], {"w": vector}, r"Leaf 'w': .*shape \(2,\)")
    refused(READ["balance"], {"w": jnp.ones(2)}, "Leaf 'w': an array by itself")
    refused(READ["gap"], {"v": vector}, "no leaf 'w'; its leaves are v")
    chain = gflow.Product(np.eye(2), np.eye(2), np.eye(2))
    refused(READ["gap"], {"w": chain}, "two factors, and there are 3")
    with pytest.raises(ValueError, match="no leaf 'kq'"):
        gflow.simulate(
            {"w": vector}, lambda m: jnp.sum(m["w"].value), t1=1.0,
            observables={"b": observables.balance("kq")},
        )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"`\.value`, `\.total`, `\.factors` and `\.conserved\(\)`"
    ):
        gflow.simulate(
            {"w": vector}, lambda m: jnp.sum(m["w"].value), t1=1.0,
            observables={"b": lambda m: m["w"].log_alpha},
        )  # fmt: skip
