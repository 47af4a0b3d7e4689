"""Linear self-attention with all blocks: its limit, and prompts that share a task."""

import numpy as np
import pytest
from in_context_flows import CONTEXT, EIGENVALUES, integrated, loss, second_moment
from scipy.integrate import solve_ivp

from gflow.objectives import InContextRegression, SharedTaskRegression
from theory.linear_icl import plateaus, self_attention_limit, shared_task

LAM = np.diag(EIGENVALUES)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("balance", [0.0, 2.0, -30.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_limit_by_scipy(balance, noise):
    """From u², ‖U‖² that differ by the balance, U in any direction."""
    start = RNG.normal(size=(4, 4)) @ RNG.normal(size=(4, 4)).T
    start = start / np.linalg.norm(start)
    value, size = (np.sqrt(0.01 + max(x, 0.0)) for x in (balance, -balance))
    begun = [np.array([value]), size * start[None]]
    (u, matrix), _ = integrated(begun, LAM, CONTEXT, [3e4], noise=noise)
    limit = self_attention_limit(EIGENVALUES, CONTEXT, balance=balance, noise=noise)
    sign = np.sign(u[0, 0])  # −u, −U predict the same
    assert sign * u[0, 0] == pytest.approx(float(limit.value), rel=1e-8)
    np.testing.assert_allclose(sign * matrix[0, 0], np.diag(limit.key_query), rtol=0, atol=1e-7)
    product = float(limit.value) * np.diag(limit.key_query)
    assert limit.loss == pytest.approx(loss(product, LAM, CONTEXT, noise), rel=1e-12)
    assert limit.value**2 - np.sum(limit.key_query**2) == pytest.approx(balance, abs=1e-10)


def test_the_limit_is_that_of_the_paper():
    gamma = (1 + 1 / CONTEXT) * LAM + np.trace(LAM) / CONTEXT * np.eye(4)
    inverse = np.linalg.inv(gamma)
    limit = self_attention_limit(EIGENVALUES, CONTEXT)
    whole = np.trace(inverse @ inverse)
    assert limit.value == pytest.approx(whole**0.25, rel=1e-13)
    np.testing.assert_allclose(np.diag(limit.key_query), whole**-0.25 * inverse, rtol=1e-13)
    assert limit.loss == pytest.approx(np.trace(LAM) - np.trace(LAM @ LAM @ inverse), rel=1e-13)
    assert limit.loss == pytest.approx(plateaus(EIGENVALUES, CONTEXT)[-1], rel=1e-13)
    np.testing.assert_allclose(second_moment(LAM, CONTEXT), gamma @ LAM, rtol=1e-13)


def test_refusals_of_the_limit():
    with pytest.raises(ValueError, match="positive eigenvalues"):
        self_attention_limit([0.4, 0.0], 31)
    with pytest.raises(ValueError, match="one number"):
        self_attention_limit([0.4], 31, balance=[0.0, 1.0])
    with pytest.raises(ValueError, match="context = 0"):
        self_attention_limit([0.4], 0)


OBJECTIVES = {
    "own": SharedTaskRegression(LAM, CONTEXT, np.ones(4), 0.0),
    "mixed": SharedTaskRegression(LAM, CONTEXT, [1.0, -0.5, 0.8, 2.0], 0.6, noise=0.1),
    "hidden": SharedTaskRegression(np.eye(2) / 2, 8, [1.0, 1.0], 1.0, shown=False),
}


def flow(objective, heads, size, t, seed=0):
    """v (H, n) and U (H, n, D) at t, by SciPy, and the start."""
    force, second = np.asarray(objective.force), np.asarray(objective.second)
    n, _, d = force.shape
    begun = size * np.random.default_rng(seed).normal(size=heads * n * (1 + d))

    def velocity(_, y):
        v, u = y[: heads * n].reshape(heads, n), y[heads * n :].reshape(heads, n, d)
        tensor = np.einsum("ha,hbc->abc", v, u)
        rest = force - (second @ tensor.ravel()).reshape(force.shape)
        grown = np.einsum("abc,hbc->ha", rest, u), np.einsum("abc,ha->hbc", rest, v)
        return np.concatenate([x.ravel() for x in grown])

    method = "LSODA" if t > 1e3 else "DOP853"
    y = solve_ivp(velocity, (0.0, t), begun, method, rtol=1e-10, atol=1e-12 * min(size, 1.0)).y
    return [
        (z[: heads * n].reshape(heads, n), z[heads * n :].reshape(heads, n, d))
        for z in (begun, y[:, -1])
    ]


@pytest.mark.parametrize("which", OBJECTIVES)
def test_modes_grow_at_their_rates(which):
    found = shared_task(OBJECTIVES[which])
    t = 5.0 / found.rates[0]
    (v0, u0), (v, u) = flow(OBJECTIVES[which], 3, 1e-9, t)
    for k, rate in enumerate(found.rates):
        for sign in (1.0, -1.0):
            before, after = (
                0.5 * (x @ found.value[k] + sign * np.einsum("hbc,bc->h", y, found.key_query[k]))
                for x, y in ((v0, u0), (v, u))
            )
            np.testing.assert_allclose(after, np.exp(sign * rate * t) * before, rtol=1e-7, atol=0)


@pytest.mark.parametrize("which", OBJECTIVES)
def test_at_the_end_the_loss_is_its_minimum(which):
    objective = OBJECTIVES[which]
    found = shared_task(objective)
    n = objective.force.shape[0]
    _, (v, u) = flow(objective, n, 0.3, 2e5 if which == "mixed" else 2e4)
    tensor = np.einsum("ha,hbc->abc", v, u).ravel()
    measured = (
        float(objective.top) - 2.0 * np.ravel(objective.force) @ tensor
        + tensor @ np.asarray(objective.second) @ tensor
    )  # fmt: skip
    assert found.loss == pytest.approx(measured, rel=1e-6)
    assert found.loss <= measured * (1 + 1e-9)
    residual = np.ravel(objective.force) - np.asarray(objective.second) @ found.tensor.ravel()
    assert np.max(np.abs(residual)) < 1e-12


def test_tasks_of_their_own_are_learned_in_context_alone():
    found = shared_task(OBJECTIVES["own"])
    assert found.rates[0] == pytest.approx(np.linalg.norm(LAM @ LAM), rel=1e-12)
    np.testing.assert_allclose(np.abs(found.value[0]), [0, 0, 0, 0, 1], atol=1e-12)
    block = LAM @ LAM / np.linalg.norm(LAM @ LAM)
    np.testing.assert_allclose(np.abs(found.key_query[0, :-1]), block, atol=1e-12)
    expected = np.diag(1.0 / np.asarray(EIGENVALUES + (EIGENVALUES + 1.0) / CONTEXT))
    np.testing.assert_allclose(
        found.tensor[-1, :-1] + found.tensor[:-1, -1], expected, rtol=0, atol=1e-10
    )
    assert found.loss == pytest.approx(plateaus(EIGENVALUES, CONTEXT)[-1], rel=1e-12)


def test_refusal_of_another_objective():
    with pytest.raises(ValueError, match="objective is a InContextRegression"):
        shared_task(InContextRegression(EIGENVALUES, CONTEXT))
