"""Prompts that share a task: exact means by quadrature, sampling, symmetry, refusals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import tasks
from gflow.internal import build_flow, trained_leaves
from gflow.models import LinearSelfAttention, MergedHeads, SeparateHeads
from gflow.objectives import InContextRegression, SharedTaskRegression

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def covariance(d):
    mixed = RNG.normal(size=(d, d))
    return mixed @ mixed.T / d


def blocks(heads, d, mixed=True, size=1.0):
    value, key_query = RNG.normal(size=(2, heads, d + 1, d + 1))
    if not mixed:
        value[:, -1, :-1] = key_query[:, -1, :-1] = 0.0
    return LinearSelfAttention(*(gflow.Scaled(size * x, 0.0) for x in (value, key_query)))


def answers(model, inputs):
    """ŷ of prompts in NumPy."""
    value, key_query = np.asarray(model.value.value), np.asarray(model.key_query.value)
    inputs = inputs.copy()
    inputs[:, -1, -1] = 0.0
    square = np.einsum("pna,pnb->pab", inputs, inputs) / (inputs.shape[1] - 1)
    return np.einsum("ha,pab,hbc,pc->p", value[:, -1], square, key_query, inputs[:, -1])


def by_quadrature(model, lam, context, task, shown, noise):
    """E(y_q − ŷ)² of Gaussian numbers, by a product rule that is exact for its degree.

    The degree in every one of them is at most 6 (of x_q), for which 4 nodes are enough.
    """
    d = len(lam)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / np.sum(weights)
    own = task is None
    count = d * (context + 1) + (d if own else 0)
    labels = context if not shown else context + 1 if noise else 0
    grid = np.array(list(itertools.product(range(4), repeat=count + labels)))
    z, weight = nodes[grid], np.prod(weights[grid], axis=1)
    root = np.linalg.cholesky(lam)
    x = z[:, : d * (context + 1)].reshape(len(z), context + 1, d) @ root.T
    w = z[:, d * (context + 1) : count] if own else np.broadcast_to(task, (len(z), d))
    y = np.einsum("pnd,pd->pn", x, w)
    if shown and noise:
        y = y + math.sqrt(noise) * z[:, count:]
    target, shown_labels = y[:, -1], y.copy()
    if not shown:
        shown_labels[:, :-1] = z[:, count:]
    inputs = np.concatenate([x, shown_labels[..., None]], axis=-1)
    return float(np.sum(weight * (target - answers(model, inputs)) ** 2))


@pytest.mark.parametrize(
    ("d", "context", "own", "shown", "noise"),
    [(1, 2, True, True, 0.0), (1, 2, True, True, 0.3), (2, 1, True, True, 0.0),
     (2, 2, False, True, 0.0), (1, 2, False, True, 0.5), (2, 1, False, False, 0.0),
     (1, 3, False, False, 0.0)],
)  # fmt: skip
def test_moments_are_exact(d, context, own, shown, noise):
    lam, task, model = covariance(d), RNG.normal(size=d), blocks(2, d)
    share = 0.0 if own else 1.0
    objective = SharedTaskRegression(
        lam, context, task, share, shown=shown, noise=noise, reduction="mean"
    )
    expected = by_quadrature(model, lam, context, None if own else task, shown, noise)
    assert objective(model) == pytest.approx(expected, rel=1e-11)
    half = SharedTaskRegression(lam, context, task, share, shown=shown, noise=noise)
    assert half(model) == pytest.approx(0.5 * expected, rel=1e-11)


def test_a_share_is_the_mean_of_both():
    lam, task, model = covariance(3), RNG.normal(size=3), blocks(2, 3)
    one, other, mixed = (
        float(SharedTaskRegression(lam, 5, task, share, noise=0.2)(model))
        for share in (0.0, 1.0, 0.3)
    )
    assert mixed == pytest.approx(0.7 * one + 0.3 * other, rel=1e-12)


def test_without_a_shared_task_it_is_in_context_regression():
    lam, model = covariance(3), blocks(3, 3, mixed=False)
    alone = SharedTaskRegression(lam, 5, np.ones(3), 0.0, noise=0.2)
    assert alone(model) == pytest.approx(float(InContextRegression(lam, 5, 0.2)(model)), rel=1e-12)
    # a model with a matrix alone has the one block
    merged = MergedHeads.small(3, 2, log_epsilon=0.0, key=KEY)
    separate = SeparateHeads.small(3, 2, log_epsilon=0.0, key=KEY)
    for heads in (merged, separate):
        expected = float(InContextRegression(lam, 5, 0.2)(heads))
        assert alone(heads) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("share", "still"), [(0.0, True), (0.4, False)])
def test_mixed_blocks_stay_zero_where_every_prompt_has_its_own_task(share, still):
    """By w → −w; exactly, so that no rounding grows in them."""
    lam, model = covariance(4), blocks(3, 4, mixed=False)
    flow = build_flow(model, SharedTaskRegression(lam, 31, np.ones(4), share))
    _, forces = flow.forces({n: x.value for n, x in trained_leaves(model).items()})
    mixed = [forces["value"][:, -1, :-1], forces["key_query"][:, -1, :-1]]
    assert all(np.all(x == 0.0) for x in mixed) == still
    assert np.max(np.abs(mixed[0])) > 1e-2 or still


def test_on_a_sample_they_move_by_its_standard_error():
    lam, model = np.eye(3) / 3, blocks(1, 3, mixed=False, size=0.3)
    forces = {}
    for prompts in (300, 30_000):
        squares = []
        for seed in range(4):
            task = tasks.in_context_regression(lam, 10, prompts=prompts, key=jax.random.key(seed))
            flow = build_flow(model, task.objective)
            _, found = flow.forces({n: x.value for n, x in trained_leaves(model).items()})
            mixed = found["value"][0, -1, :-1], found["key_query"][0, -1, :-1]
            squares.append(np.sum(np.square(mixed)))
        forces[prompts] = math.sqrt(np.mean(squares))
    assert 6.0 < forces[300] / forces[30_000] < 16.0


@pytest.mark.parametrize("shown", [True, False])
def test_sampled_prompts_have_its_mean(shown):
    lam, w = covariance(2), np.array([1.0, -2.0])
    task = tasks.in_context_regression(
        lam, 4, prompts=40_000, key=KEY, noise=0.1, task=w, share=0.4, shown=shown
    )
    assert isinstance(task.population, SharedTaskRegression)
    x, y = np.asarray(task.inputs), np.asarray(task.targets)
    mine = np.arange(40_000) < 16_000
    assert np.var(y[mine] - x[mine, -1, :-1] @ w) == pytest.approx(0.1, rel=0.05)
    labels, fit = x[mine, :-1, -1], x[mine, :-1, :-1] @ w
    assert np.var(labels - shown * fit) == pytest.approx(0.1 if shown else 1.0, rel=0.05)
    value, key_query = 0.3 * RNG.normal(size=(2, 1, 3, 3))
    model = LinearSelfAttention(gflow.Scaled(value, 0.0), gflow.Scaled(key_query, 0.0))
    squares = 0.5 * (y - answers(model, x)) ** 2
    # the two kinds of prompts come in equal shares, not at random
    spread = math.hypot(*(np.std(squares[k]) * math.sqrt(np.sum(k)) for k in (mine, ~mine)))
    miss = np.mean(squares) - float(task.population(model))
    assert abs(miss) < 3.5 * spread / squares.size
    assert task.objective(model) == pytest.approx(np.mean(squares), rel=1e-11)


def test_turning_inputs_and_task_changes_nothing():
    lam, w, model = covariance(3), RNG.normal(size=3), blocks(2, 3)
    turn = np.eye(4)
    turn[:-1, :-1] = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    value, key_query = np.asarray(model.value.value), np.asarray(model.key_query.value)
    turned = LinearSelfAttention(
        gflow.Scaled(turn @ value @ turn.T, 0.0), gflow.Scaled(turn @ key_query @ turn.T, 0.0)
    )
    q = turn[:-1, :-1]
    one = SharedTaskRegression(lam, 5, w, 0.4)(model)
    assert SharedTaskRegression(q @ lam @ q.T, 5, q @ w, 0.4)(turned) == pytest.approx(
        float(one), rel=1e-11
    )


REFUSED = {
    "not positive semi-definite": lambda: SharedTaskRegression([0.4, -0.1], 31, np.ones(2)),
    "context = 0": lambda: SharedTaskRegression([0.4], 0, np.ones(1)),
    r"task has shape \(2,\)": lambda: SharedTaskRegression([0.4], 3, np.ones(2)),
    "share = 1.2": lambda: SharedTaskRegression([0.4], 3, np.ones(1), 1.2),
    "noise = -1": lambda: SharedTaskRegression([0.4], 3, np.ones(1), noise=-1.0),
    r"from model\.tensor\(\)": lambda: SharedTaskRegression([0.4], 3, np.ones(1))(jnp.sum),
    r"\(3, 3, 2\) where it must be \(2, 2, 1\)": lambda: SharedTaskRegression([0.4], 3, np.ones(1))(
        blocks(1, 2)
    ),
    "shown=False is of prompts": lambda: tasks.in_context_regression(
        [0.4], 3, prompts=2, key=KEY, shown=False
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError, match=words):
        REFUSED[words]()
