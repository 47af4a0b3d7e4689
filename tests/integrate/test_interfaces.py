"""Deep matrices from general starts: bases at interfaces that turn, against other ways to know."""

import itertools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import reference_data
from scipy.integrate import solve_ivp

import gflow
import theory
from gflow.integrate._interfaces import orthogonal


def drawn(n, seed=0, depth=3):
    """Matrices of order one, a target of known singular values, and weights of the loss."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(n, n)) for _ in range(depth)]
    u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    target = u @ np.diag([3.0, 2.0, 1.5, 1.2, 1.0][:n]) @ v.T
    a = rng.normal(size=(n * n, n * n))
    return weights, target, np.eye(n * n) + 0.3 * (a @ a.T) / n**2


def chain(weights, log_scale):
    """The matrices as leaves that meet one after another."""
    names = [None, *(f"h{k}" for k in range(1, len(weights))), None]
    return gflow.models.DeepLinear(
        [
            gflow.Scaled(w, log_scale, interfaces=(names[k + 1], names[k]))
            for k, w in enumerate(weights)
        ]
    )


def loss_of(target, kernel=None):
    y = jnp.asarray(target)
    k = jnp.eye(y.size) if kernel is None else jnp.asarray(kernel)

    def loss(model):
        off = (model.product - y).ravel()
        return 0.5 * jnp.dot(off, jnp.matmul(k, off))

    return loss


#: Of 3 × 3, 3 × 3 with a general kernel and 5 × 5 matrices α·t at the drops as α → 0, from Taylor
#: series in extended precision; good to 3e-9.
CASES = [reference_data.load("deep")["cases"][k] for k in range(3)]


@pytest.mark.parametrize(
    ("case", "alpha"),
    [
        (0, 1e-60),
        pytest.param(1, 1e-20, marks=pytest.mark.slow),
        pytest.param(1, 1e-100, marks=pytest.mark.slow),
        pytest.param(2, 1e-100, marks=pytest.mark.slow),
    ],
)
def test_all_drops_at_their_limits(case, alpha):
    known = CASES[case]
    weights = [np.array(w) for w in known["weights"]]
    loss = loss_of(np.array(known["target"]), np.array(known["kernel"]))
    run = gflow.simulate(chain(weights, np.log(alpha)), loss, rtol=1e-8)
    assert run.status is gflow.Status.converged
    assert run.loss[-1] < 1e-20
    stages = run.stages()
    for number, (stage, limit) in enumerate(zip(stages, known["times"], strict=True)):
        assert stage.activated == [(f"weights.{k}", (number,)) for k in range(3)]
        miss = abs(stage.t * alpha - limit)
        assert miss < 2.0 * stage.error * alpha + 1e-8 * limit
        assert stage.error * alpha < 2e-8 * limit
    assert run.tau[-1] == pytest.approx(run.t[-1] * alpha, rel=1e-13)
    np.testing.assert_allclose([s.loss for s in stages[:-1]], known["losses"][:-1], rtol=1e-11)


def raw_times(weights, target, kernel, levels, end):
    """When the loss of the matrices themselves passes each of `levels`, by DOP853."""
    shape, n = target.shape, weights[0].size
    cuts = [n, 2 * n]

    def off(y):
        a, b, c = (x.reshape(shape) for x in np.split(y, cuts))
        return a, b, c, c @ b @ a - target

    def field(t, y):
        a, b, c, d = off(y)
        g = -(kernel @ d.ravel()).reshape(shape)
        pulled = (c @ b).T @ g, c.T @ g @ a.T, g @ (b @ a).T
        return np.concatenate([x.ravel() for x in pulled])

    def passing(level):
        def event(t, y):
            d = off(y)[-1].ravel()
            return 0.5 * d @ kernel @ d - level

        event.direction = -1
        return event

    start = np.concatenate([w.ravel() for w in weights])
    found = solve_ivp(
        field, (0.0, end), start, method="DOP853", rtol=1e-12, atol=1e-12 * np.max(np.abs(start)),
        events=[passing(level) for level in levels],
    )  # fmt: skip
    return np.array([times[0] for times in found.t_events])


@pytest.mark.parametrize("n", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_where_floats_reach_it_is_the_flow_of_the_matrices(n):
    weights, target, kernel = drawn(n)
    run = gflow.simulate(chain(weights, np.log(1e-3)), loss_of(target, kernel), rtol=1e-9)
    levels = [s.level[1] for s in run.stages()]
    mine = [run.crossing(gflow.stop.loss_below(level)) for level in levels]
    small = [1e-3 * w for w in weights]
    times = raw_times(small, target, kernel, levels, 1.05 * mine[-1].t)
    for found, t in zip(mine, times, strict=True):
        assert found.t == pytest.approx(t, rel=2e-8)
        assert abs(found.t - t) < 2.0 * found.error + 1e-9 * t
    # weights are recorded as the model has them, whatever the bases
    np.testing.assert_allclose(run.observables["weights.0"][0], small[0], rtol=1e-13, atol=1e-18)
    steps = max(np.max(np.abs(np.diff(run.observables[f"weights.{k}"], axis=0))) for k in range(3))
    assert steps < 0.2
    for k in range(2):
        below, above = (run.observables[f"weights.{i}"] for i in (k, k + 1))
        balance = above.mT @ above - below @ below.mT
        # conserved to the tolerance of steps times live weights
        drift = np.max(np.abs(balance - balance[:1]))
        assert drift < 5e-9 < 1e-3 * np.max(np.abs(balance[0]))


@pytest.mark.parametrize(
    ("widths", "alpha", "rank"),
    [
        ((3, 3, 3, 3, 3), 1e-40, 3),
        pytest.param((3, 2, 4, 3), 1e-20, 2, marks=pytest.mark.slow),
        pytest.param((3, 2, 2, 2, 3), 1e-40, 2, marks=pytest.mark.slow),
    ],
)
def test_any_widths_and_depths(widths, alpha, rank):
    target = np.random.default_rng(3).normal(size=(3, 3))
    size = np.linalg.svd(target, compute_uv=False)
    model = gflow.models.DeepLinear.small(widths, log_alpha=np.log(alpha), key=jax.random.key(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = gflow.simulate(model, loss_of(target), rtol=1e-6, error_bars=False)
        stages = run.stages()
    assert run.status is gflow.Status.converged
    # what passes the narrowest layer is learned, largest first, and no more
    losses = [0.5 * np.sum(size[k:] ** 2) for k in range(1, rank + 1)]
    np.testing.assert_allclose([s.loss for s in stages], losses, rtol=1e-9, atol=1e-20)
    names = [leaf for leaf, _ in stages[-1].activated]
    assert names == [f"weights.{k}" for k in range(len(widths) - 1)]


def test_a_run_goes_on_with_all_digits(tmp_path):
    weights, target, _ = drawn(3)
    model, loss = chain(weights, np.log(1e-60)), loss_of(target)
    first = gflow.simulate(model, loss, t1=0.34e60)
    assert first.status is gflow.Status.reached
    for k, w in enumerate(first.final.weights):
        np.testing.assert_allclose(w.value, first.observables[f"weights.{k}"][-1], atol=1e-14)
    on = gflow.simulate(first.final, loss)
    times = [s.t * 1e-60 for s in on.stages()]
    np.testing.assert_allclose(times, CASES[0]["times"][1:], rtol=1e-7)
    path = tmp_path / "run.nc"
    on.save(path)
    read = gflow.Trajectory.load(path, first.final)
    np.testing.assert_array_equal(read.observables["weights.1"], on.observables["weights.1"])
    assert [s.t for s in read.stages()] == [s.t for s in on.stages()]


@pytest.mark.slow
def test_a_batch_is_its_runs():
    weights, target, _ = drawn(3)
    models = [chain(weights, np.log(alpha)) for alpha in (1e-20, 1e-60)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
    batch = gflow.simulate_batch(stacked, loss_of(target))
    for one, model in zip(batch, models, strict=True):
        alone = gflow.simulate(model, loss_of(target))
        assert one.status is gflow.Status.converged
        times = [[s.t for s in run.stages()] for run in (one, alone)]
        np.testing.assert_allclose(*times, rtol=1e-6)


def test_rotations_of_graded_columns():
    """Of columns from 1 to 1e-80: orthogonal to the rounding of the smaller one, in order."""
    rng = np.random.default_rng(0)
    scales = np.array([1e-60, 1.0, 3e-60, 1e-80])
    z = rng.normal(size=(9, 4)) * scales
    z[:, 0] += 0.5 * scales[0] * z[:, 1]
    turn, share = orthogonal(jnp.asarray(z), jnp.zeros(4, bool))
    assert share > 0.1
    with mpmath.workdps(120):
        exact = mpmath.matrix(z.tolist())
        r = mpmath.matrix(np.asarray(turn).tolist())
        columns = exact * r.T
        norms = [mpmath.norm(columns[:, k]) for k in range(4)]
        assert norms[0] > norms[1] > norms[3]
        # a pair of like size comes to rest step by step, and moves smaller ones until it has
        for i, j in itertools.combinations(range(4), 2):
            overlap = (columns[:, i].T * columns[:, j])[0] / (norms[i] * norms[j])
            assert abs(overlap) < (1e-3 if i else 256 * 2.0**-52)
        identity = r * r.T
        for i, j in itertools.product(range(4), repeat=2):
            # a rotation between sizes ρ apart has angles of ρ, to their own rounding
            scale = min(norms[i], norms[j]) / max(norms[i], norms[j])
            assert abs(identity[i, j] - (i == j)) < 1e-15 * (4 if i == j else 4 * scale)


@pytest.mark.slow
def test_an_interface_without_a_name_is_no_success():
    weights, target, _ = drawn(3, depth=4)
    names = (("h1", None), (None, "h1"), ("h3", None), (None, "h3"))
    model = gflow.models.DeepLinear(
        [gflow.Scaled(w, -69.0, interfaces=n) for w, n in zip(weights, names, strict=True)]
    )
    with pytest.warns(UserWarning, match="an interface without a name"):
        run = gflow.simulate(model, loss_of(target), rtol=1e-6, error_bars=False, max_steps=1500)
    assert not run.successful
    assert run.loss[-1] > 1e-3


class Curved(eqx.Module):
    """Matrices with something in between."""

    below: gflow.Scaled
    above: gflow.Scaled

    def __call__(self, x):
        return self.above.value @ jnp.tanh(self.below.value @ x)


def test_what_is_no_interface_is_refused():
    rng, x = np.random.default_rng(0), jnp.ones(3)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(2, 4))

    def loss(model):
        return jnp.sum((model(x) - 1.0) ** 2)

    below = gflow.Scaled(a, -5.0, interfaces=("h", None))
    curved = Curved(below, gflow.Scaled(b, -5.0, interfaces=(None, "h")))
    with pytest.raises(ValueError, match="'h' is turned"):
        gflow.simulate(curved, loss)
    # one end alone
    weights, target, _ = drawn(3)
    model = chain(weights, -20.0)
    open_end = gflow.Scaled(weights[2], -20.0, interfaces=("out", None))
    with pytest.raises(ValueError, match="name both of its ends"):
        gflow.simulate(eqx.tree_at(lambda m: m.weights[2], model, open_end), loss_of(target))
    narrow = gflow.Scaled(rng.normal(size=(2, 3)), -5.0, interfaces=(None, "h"))
    with pytest.raises(ValueError, match="axes of several lengths meet"):
        gflow.simulate(Curved(below, narrow), lambda m: jnp.sum(m.below.value) ** 3)
    beside = gflow.Scaled(b, -5.0)
    with pytest.raises(ValueError, match="'above' has not"):
        gflow.simulate(Curved(below, beside), loss)
    for bad in (("h",), ("h", "h"), (None, None), ("h", "")):
        with pytest.raises(ValueError, match="interfaces="):
            gflow.Scaled(a, -5.0, interfaces=bad)
    with pytest.raises(ValueError, match="units or interfaces"):
        gflow.Scaled(a, -5.0, units="heads", interfaces=("h", None))
    with pytest.raises(ValueError, match="2 layers"):
        gflow.models.DeepLinear.small((3, 3, 3), log_alpha=-5.0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="not predicted yet"):
        theory.gradual_rank.predict(model, loss_of(target))
