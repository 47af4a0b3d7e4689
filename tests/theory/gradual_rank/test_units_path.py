"""The limit algorithm of saddles of order three and more: order, times, offsets, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from small_heads import (
    AT_THOUSANDTH,
    CUBES,
    LAM,
    MIXING,
    PLATEAUS,
    TARGETS,
    Cubes,
    Heads,
    N,
    cubes,
    cubes_in_the_limit,
    cubes_loss,
    drawn,
    heads,
    loss,
)

import gflow
import theory
from theory.linear_icl import drops
from theory.linear_icl._drops import course
from theory.linear_icl._problem import problem

predict = theory.gradual_rank.predict


@pytest.fixture(scope="module")
def path():
    return predict(heads(1e-20), loss)


@pytest.fixture(scope="module")
def three():
    return predict(cubes(1e-20), cubes_loss)


def test_heads_race_as_their_own_clocks_say(path):
    # of every head its clock alone, in cosh and sinh
    e = 1e-60
    known = drops(*(e * x for x in drawn()), LAM, N)
    assert path.order == 3
    np.testing.assert_allclose([s.tau for s in path.stages], e * known.times, rtol=1e-11)
    assert [s.activated for s in path.stages] == [
        [("v", (h,)), ("k", (h,)), ("q", (h,))] for h in known.heads
    ]
    losses = [path.start.loss, *(s.loss for s in path.stages)]
    np.testing.assert_allclose(losses, PLATEAUS, rtol=1e-12)
    assert [int(s.rank["k"]) for s in path.stages] == [1, 2, 3, 4]
    assert path.ended.startswith("complete")
    kappa = np.cbrt(1 / (LAM * (1 + (1 + LAM.sum() / LAM) / N)))
    np.testing.assert_allclose([s.rate for s in path.stages], LAM**2 * kappa, rtol=1e-9)


def test_offsets_of_heads_are_those_of_the_matched_rule(path):
    # another derivation: cosh and sinh up to T − 1/(λ²κ), and from there without the direction
    e = 1e-6
    v, k, q = (e * x for x in drawn())
    plain = course(v, k[:, :, None], q[:, :, None], problem(LAM, N), turns=False)
    limits = [s.tau / e + s.offset for s in path.stages]
    np.testing.assert_allclose(limits, plain.times, rtol=0.0, atol=1e-3)
    offsets = [s.offset for s in path.stages]
    assert offsets[0] == pytest.approx(-1.25339119 * (1 / path.stages[0].rate), rel=1e-8)
    # without what drops do to the others, C would be that of the drop alone
    assert abs(offsets[1] + 1.25339119 / path.stages[1].rate) > 1.0


@pytest.mark.slow
def test_at_finite_size_a_winner_turns_the_others(path):
    # against the weights themselves, by DOP853 at 1e-12: the limit misses by up to ten
    found = path.at(np.log(1e-3))
    np.testing.assert_allclose(found.t, AT_THOUSANDTH, rtol=0.0, atol=0.05)
    limit = np.array([s.tau / 1e-3 + s.offset for s in path.stages])
    assert np.all(np.abs(limit - AT_THOUSANDTH)[1:] > 1.0)
    # another derivation, of first order
    known = drops(*(1e-8 * x for x in drawn()), LAM, N)
    np.testing.assert_allclose(path.at(np.log(1e-8)).t, known.times, rtol=0.0, atol=3e-4)
    # the share of e₂ in a head that learns e₁ falls as α^(1 − λ₂²/λ₁²)
    offset = path.stages[1].offset
    change = [path.at(np.log(e)).offset[1] - offset for e in (1e-4, 1e-8)]
    assert change[0] / change[1] == pytest.approx(1e4 ** (1 - (0.3 / 0.4) ** 2), rel=1e-2)


def test_scalar_units_against_the_exact_limit(three):
    times, who, losses = cubes_in_the_limit()
    np.testing.assert_allclose([s.tau for s in three.stages], times, rtol=1e-12)
    assert [s.activated for s in three.stages] == [[x] for x in who]
    np.testing.assert_allclose([s.loss for s in three.stages], losses[1:], rtol=1e-12, atol=1e-15)
    # margins: what the next to blow up on the plateau would come later by
    assert three.stages[0].margin == pytest.approx(0.0759, rel=1e-2)


def test_factors_are_what_alpha_leaves_of_the_weights(three):
    # the same weights said to be of another α, and leaves of log-sizes of their own
    u, v = CUBES
    log = float(np.log(1e-20))
    apart = Cubes(
        gflow.Scaled(10.0 * u, log - np.log(10.0), units="u"), gflow.Scaled(v, log, units="v")
    )
    with pytest.raises(ValueError, match="disagree on log_alpha"):
        predict(apart, cubes_loss)
    for model, alpha in ((apart, 1e-20), (cubes(1e-20), 1e-18)):
        path = predict(model, cubes_loss, log_alpha=float(np.log(alpha)))
        found = [s.tau / alpha for s in path.stages]
        np.testing.assert_allclose(found, [s.tau / 1e-20 for s in three.stages], rtol=1e-11)


def raw_times(epsilon, levels):
    """When the loss of u³ − v³ passes levels, by SciPy on the factors themselves."""

    def rhs(_, w):
        u, v = w[:3], w[3:]
        force = MIXING @ (TARGETS - u**3 + v**3)
        return np.concatenate([3 * u**2 * force, -3 * v**2 * force])

    def passing(level):
        def event(_, w):
            rest = w[:3] ** 3 - w[3:] ** 3 - TARGETS
            return 0.5 * rest @ MIXING @ rest - level

        return event

    start = epsilon * np.concatenate(CUBES)
    end = 1.3 * cubes_in_the_limit()[0][-1] / epsilon
    found = solve_ivp(
        rhs, (0.0, end), start, "LSODA", rtol=1e-12, atol=1e-15 * epsilon,
        events=[passing(x) for x in levels],
    )  # fmt: skip
    return np.array([t[0] for t in found.t_events])


def test_offsets_of_scalar_units_against_scipy(three):
    # t = T/ε + C + O(ε): two ε give C to O(ε²)
    levels = [s.level.value for s in three.stages]
    taus = np.array([s.tau for s in three.stages])
    left = {e: raw_times(e, levels) - taus / e for e in (1e-3, 2e-3)}
    limit = 2 * left[1e-3] - left[2e-3]
    np.testing.assert_allclose([s.offset for s in three.stages], limit, rtol=0.0, atol=3e-5)
    np.testing.assert_allclose(three.at(np.log(1e-3)).t, taus / 1e-3 + limit, atol=3e-3)


@pytest.mark.slow
def test_curves_between_the_saddles(three):
    epsilon = 1e-4
    run = gflow.simulate(cubes(epsilon), cubes_loss)
    finite = three.at(np.log(epsilon))
    near = (finite.t[:, None] + np.array([-2.0, -0.5, 0.0, 0.3, 2.0])).ravel()
    found = finite.loss(near * epsilon)
    seen = [float(cubes_loss(run.model(t=t))) for t in near]
    np.testing.assert_allclose(found, seen, rtol=0.0, atol=2e-3)
    assert np.ptp(seen) > 3.0
    value = finite.value(near * epsilon)["u"]
    np.testing.assert_allclose(value[4], run.model(t=near[4]).u.value, atol=2e-3)


class Chain(eqx.Module):
    """f = abcd entry by entry, each entry a unit over four leaves: order four."""

    a: gflow.Scaled
    b: gflow.Scaled
    c: gflow.Scaled
    d: gflow.Scaled

    @classmethod
    def small(cls, epsilon):
        rng, scale = np.random.default_rng(0), float(np.log(epsilon))
        parts = [gflow.Scaled(rng.uniform(0.5, 1.5, 3), scale, units="modes") for _ in range(4)]
        return cls(*parts)


def chain_loss(model):
    rest = model.a.value * model.b.value * model.c.value * model.d.value - jnp.array([2, 1, 1.5])
    mixing = jnp.array([[1.0, 0.2, 0.1], [0.2, 0.7, -0.1], [0.1, -0.1, 0.5]])
    return 0.5 * jnp.sum(rest[:, None] * mixing * rest[None])


@pytest.mark.slow
def test_order_four_against_runs():
    # T of a product of four: x_i' = bΠx/x_i keeps x_i² − x_j², a quadrature in x₁²
    path = predict(Chain.small(1e-10), chain_loss)
    assert path.order == 4
    for epsilon, relative in ((1e-3, 3e-8), (1e-40, 3e-8)):
        run = gflow.simulate(Chain.small(epsilon), chain_loss)
        assert run.order == 4
        stages = run.stages()
        assert [s.activated for s in stages] == [s.activated for s in path.stages]
        np.testing.assert_allclose(path.at(np.log(epsilon)).t, [s.t for s in stages], rtol=relative)
        np.testing.assert_allclose([s.loss for s in stages], [s.loss for s in path.stages],
                                   rtol=1e-8, atol=1e-15)  # fmt: skip
    force = np.array([[1, 0.2, 0.1], [0.2, 0.7, -0.1], [0.1, -0.1, 0.5]]) @ [2, 1, 1.5]
    x = np.stack([np.asarray(getattr(Chain.small(1.0), n).array) for n in "abcd"])
    waits = [_blow_up(x[:, i] ** 2, force[i]) for i in range(3)]
    assert path.stages[0].tau == pytest.approx(min(waits), rel=1e-10)


def _blow_up(squares, force):
    """∫ds/√Π(x_i² + 2bs) over s ≥ 0, by substitution of s = u/(1 − u)."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u, w = 0.5 * (nodes + 1), 0.5 * weights
    s = u / (1 - u)
    inside = np.sqrt(np.prod(squares[:, None] + 2 * force * s, axis=0))
    return float(np.sum(w / (1 - u) ** 2 / inside))


SIDE = 3
MASKS = np.array(
    [[[max(r, c) == i for c in range(SIDE)] for r in range(SIDE)] for i in range(SIDE)], float
)


class Layers(eqx.Module):
    """A₃A₂A₁ in the basis of the modes; unit i is the entries whose row or column is the ith."""

    layers: list[gflow.Scaled]

    @classmethod
    def small(cls, epsilon, off=0.0, units="modes"):
        rng, scale = np.random.default_rng(1), float(np.log(epsilon))
        parts = [MASKS * (np.eye(SIDE) + off * rng.normal(size=(SIDE, SIDE))) for _ in range(3)]
        if units == "layers":
            return cls([gflow.Scaled(np.sum(x, 0)[None], scale, units=f"layer {i}")
                        for i, x in enumerate(parts)])  # fmt: skip
        return cls([gflow.Scaled(x, scale, units=units) for x in parts])

    def matrix(self):
        # of a leaf with a unit a mode only the entries of that mode are read
        values = [x.value for x in self.layers]
        a, b, c = (jnp.sum(MASKS * x if len(x) > 1 else x, axis=0) for x in values)
        return c @ b @ a


def layers_loss(model):
    return 0.5 * jnp.sum((model.matrix() - jnp.diag(jnp.array([3.0, 2.0, 1.0]))) ** 2)


@pytest.mark.slow
def test_aligned_matrices_learn_mode_by_mode():
    path = predict(Layers.small(1e-20), layers_loss)
    np.testing.assert_allclose([s.tau for s in path.stages], [1 / 3, 1 / 2, 1], rtol=1e-12)
    # each mode alone is w' = w²(σ − w³): by its implicit solution
    unit = np.array([3.0, 2.0, 1.0]) ** (-4 / 3)
    np.testing.assert_allclose([s.offset for s in path.stages], -1.25339119 * unit, rtol=1e-8)


@pytest.mark.parametrize("model", [Layers.small(1e-20, 0.1), Layers.small(1e-20, 0.1, "layers")])
def test_units_that_multiply_each_other_are_refused(model):
    with pytest.raises(ValueError, match="to one unit"):
        predict(model, layers_loss)


@pytest.mark.slow
def test_a_mode_hidden_in_a_live_unit_ends_the_path():
    def of_rank_two(x):
        return gflow.Scaled(x.array, x.log_scale, units="heads")

    small = gflow.models.SeparateHeads.small(4, 3, 2, log_epsilon=-46.0, key=jax.random.key(0))
    model = gflow.models.SeparateHeads(
        *(of_rank_two(x) for x in (small.value, small.key, small.query))
    )
    objective = gflow.objectives.InContextRegression([0.4, 0.3, 0.2, 0.1], 31)
    with pytest.warns(UserWarning, match="hidden in one of them"):
        path = predict(model, objective)
    assert len(path.stages) == 1
    assert "hidden" in path.ended
    with pytest.warns(UserWarning, match="gflow.simulate"):
        run = gflow.simulate(model, objective)
    assert not run.successful
    assert run.stages()[0].tau == pytest.approx(path.stages[0].tau, rel=1e-7)


@pytest.mark.slow
def test_a_mode_that_is_flat_at_first_ends_the_path():
    # two products of three in one unit: when one is learned, the other is a direction without
    # curvature, down which the loss falls as its cube
    class Pair(eqx.Module):
        u: gflow.Scaled
        v: gflow.Scaled
        w: gflow.Scaled

    def objective(model):
        made = (model.u.value * model.v.value * model.w.value)[0]
        return 0.5 * jnp.sum((made - jnp.array([2.0, 1.0])) ** 2)

    drawn = np.random.default_rng(0).uniform(0.5, 1.5, (3, 1, 2))
    model = Pair(*(gflow.Scaled(x, -46.0, units="all") for x in drawn))
    with pytest.warns(UserWarning, match="flat at first"):
        path = predict(model, objective)
    assert [s.loss for s in path.stages] == pytest.approx([0.5])


def test_heads_that_are_equal_are_refused():
    v, k, q = (x.copy() for x in drawn())
    for x in (v, k, q):
        x[2] = x[1]
    twins = Heads(*(gflow.Scaled(x, -46.0, units="heads") for x in (v, k, q)))
    with pytest.raises(ValueError, match="blow up at one time"):
        predict(twins, loss)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (heads(1e-20), {"decay": 0.1}, "without decay"),
        (heads(1.0), {}, "needs 0 < α < 1"),
        (heads(0.9), {}, "no saddle of order three|not small"),
        (heads(1e-20, units=None), {}, "Hadamard or Factored"),
    ],
)
def test_refusals(model, options, words):
    with pytest.raises(ValueError, match=words):
        predict(model, loss, **options)


def test_products_of_two_are_another_matter():
    def quadratic(model):
        return 0.5 * jnp.sum((model.v.value[:, None] * model.k.value - 1.0) ** 2)

    with pytest.raises(ValueError, match="Products of two factors"):
        predict(heads(1e-20), quadratic)
