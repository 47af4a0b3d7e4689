"""Runs to a minimum at infinity: they go on until directions rest, and say where they go."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import gflow
from gflow import Status
from gflow.results._heading import angle, heading
from theory import cross_entropy


class Separator(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


class Spiral(eqx.Module):
    """r⁻²(1 + ½ sin(φ − turns·log r)): a valley that goes round for ever as it goes out."""

    turns: float = eqx.field(static=True)

    def __call__(self, model):
        x, y = model.weight
        r, phi = jnp.hypot(x, y), jnp.arctan2(y, x)
        return r**-2 * (1.0 + 0.5 * jnp.sin(phi - self.turns * jnp.log(r)))


class Weights(eqx.Module):
    u: gflow.Scaled


def cubes(model):
    return 0.5 * jnp.sum((model.u.value**3 - jnp.array([2.0, 1.0])) ** 2)


def binary(seed, examples=8, dimensions=4):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(examples, dimensions))
    return inputs, np.sign(inputs @ rng.normal(size=dimensions))


def of_classes(seed, examples=9, dimensions=6, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % classes
    return rng.normal(size=(examples, dimensions)), labels


def logistic(inputs, labels):
    return gflow.objectives.MarginLoss(inputs, labels, loss="logistic")


def watched(objective, goal):
    return {
        "angle": gflow.observables.angle("weight", goal),
        "margin": gflow.observables.normalised_margin(objective, "weight"),
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_map_ends_at_the_separator(seed):
    inputs, labels = binary(seed)
    objective, goal = logistic(inputs, labels), cross_entropy.max_margin(inputs, labels)
    run = gflow.simulate(
        Separator(jnp.zeros(4)), objective, observables=watched(objective, goal.weights)
    )
    assert run.status is Status.directional
    assert run.successful
    assert "rad from their direction there" in run.cause
    found = run.heading("weight")
    unit = goal.weights * goal.margin
    assert angle(found.direction, unit) <= found.error + 1e-9
    assert found.left + found.error <= 1e-2
    assert run.observables["angle"][-1] == pytest.approx(found.left, abs=found.error)
    assert run.error["angle"][-1] < 1e-7
    lacks = goal.margin - run.observables["margin"][-1]
    top = np.max(np.linalg.norm(inputs, axis=1))
    assert 0.0 < lacks <= top * run.observables["angle"][-1]
    steps = run.statistics["accepted"]
    assert steps < 25 * np.log10(run.t[-1])
    assert run.statistics["rejected"] < 0.2 * steps


def test_several_classes_end_at_theirs():
    inputs, labels = of_classes(0)
    objective = gflow.objectives.CrossEntropy(inputs, labels)
    goal = cross_entropy.max_margin(inputs, labels)
    run = gflow.simulate(Separator(jnp.zeros((3, 6))), objective)
    assert run.status is Status.directional
    found = run.heading("weight")
    assert angle(found.direction, goal.weights) <= found.error + 1e-9


def test_the_tolerance_is_that_asked_for():
    inputs, labels = binary(0)
    start, objective = Separator(jnp.zeros(4)), logistic(inputs, labels)
    sooner = gflow.simulate(start, objective, stop=gflow.stop.direction_rests(0.05))
    later = gflow.simulate(start, objective, stop=[gflow.stop.direction_rests(0.02)])
    assert sooner.status is later.status is Status.directional
    light = gflow.simulate(
        start, objective, stop=gflow.stop.direction_rests(0.05), save=gflow.save.observables()
    )
    assert light.status is Status.directional
    np.testing.assert_allclose(
        light.heading("weight").direction, sooner.heading("weight").direction, atol=0.02
    )
    assert sooner.t[-1] < later.t[-1]
    for run, most in ((sooner, 0.05), (later, 0.02)):
        found = run.heading("weight")
        assert found.left + found.error <= most
    # another condition may be met before
    stops = [gflow.stop.direction_rests(0.05), gflow.stop.loss_below(1e-6)]
    run = gflow.simulate(start, objective, stop=stops)
    assert run.status is Status.stopped
    assert run.loss[-1] == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.slow
def test_a_direction_that_turns_for_ever_does_not_rest():
    start = Separator(jnp.array([3.0, -1.0]))
    with pytest.warns(UserWarning, match="direction still turns"):
        run = gflow.simulate(start, Spiral(1.0), rtol=1e-4)
    assert run.status is Status.unbounded
    assert not run.successful
    assert run.t[-1] > 1e290
    assert run.heading("weight").error > 0.1
    # one that does not is found to rest
    assert gflow.simulate(start, Spiral(0.0), rtol=1e-4).status is Status.directional


def test_what_cannot_be_separated_converges():
    inputs, labels = binary(0, examples=40)
    labels = np.where(np.arange(40) == 0, -labels, labels)
    assert not cross_entropy.separable(inputs, labels)
    run = gflow.simulate(Separator(jnp.zeros(4)), logistic(inputs, labels))
    assert run.status is Status.converged


@pytest.mark.slow
@pytest.mark.parametrize("conflict", [1e-3, 1e-6])
def test_data_that_can_be_separated_in_part(conflict):
    """w₁ rests where two examples balance, w₂ grows for ever: seen beside the rounding of w₁."""
    inputs = np.array([[1.0, 0.0], [1.0, 1.0], [-conflict, 0.0]])
    objective = logistic(inputs, np.ones(3))
    run = gflow.simulate(Separator(jnp.zeros(2)), objective, stop=gflow.stop.direction_rests(0.05))
    assert run.status is Status.directional
    found = run.heading("weight")
    np.testing.assert_allclose(found.direction, [0.0, 1.0], atol=1e-4)
    rest, grown = run.observables["weight"][-1]
    pulls = expit(-rest), conflict * expit(conflict * rest)
    assert pulls[0] == pytest.approx(pulls[1], rel=1e-3)
    assert found.left == pytest.approx(np.arctan(rest / grown), rel=1e-3)
    with pytest.warns(UserWarning, match="direction still turns"):
        assert gflow.simulate(Separator(jnp.zeros(2)), objective).status is Status.unbounded


@pytest.mark.slow
def test_members_of_a_batch_end_by_themselves():
    data = [binary(seed) for seed in range(3)]
    objectives = jax.tree.map(lambda *x: jnp.stack(x), *(logistic(*x) for x in data))
    batch = gflow.simulate_batch(
        Separator(jnp.zeros(4)), objectives, in_axes=(None, 0),
        stop=gflow.stop.direction_rests(0.05),
    )  # fmt: skip
    for run, one in zip(batch, data, strict=True):
        assert run.status is Status.directional
        found = run.heading("weight")
        goal = cross_entropy.max_margin(*one)
        assert angle(found.direction, goal.weights) <= found.error + 1e-9


@pytest.mark.parametrize("size", [1e-3, 1e-200])
def test_two_layers_from_any_size(size):
    w1, w2 = cross_entropy.etf_start(4, size, 5, key=jax.random.key(0))
    model = gflow.models.FactoredLinear(gflow.Factored(w2, w1.T))
    run = gflow.simulate(model, gflow.objectives.CrossEntropy(np.eye(4), np.arange(4)))
    assert run.status is Status.directional
    np.testing.assert_allclose(
        run.heading("weight").direction, (np.eye(4) - 0.25) / np.sqrt(3.0), atol=1e-7
    )


@pytest.mark.parametrize(
    ("stop", "times", "words"),
    [
        (gflow.stop.direction_rests(0.1), {"t1": 1.0}, "leave out t1"),
        ([gflow.stop.direction_rests(x) for x in (0.1, 0.2)], {}, "several direction_rests"),
    ],
)
def test_refused_ends(stop, times, words):
    with pytest.raises(ValueError, match=words):
        gflow.simulate(Separator(jnp.zeros(4)), logistic(*binary(0)), stop=stop, **times)


def test_units_have_no_direction_to_wait_for():
    model = Weights(gflow.Scaled(np.ones(2), -7.0, units="modes"))
    with pytest.raises(ValueError, match="not looked at in runs of units"):
        gflow.simulate(model, cubes, stop=gflow.stop.direction_rests(0.1))


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 4.0, np.nan])
def test_a_tolerance_is_an_angle(tolerance):
    with pytest.raises(ValueError, match="angle"):
        gflow.stop.direction_rests(tolerance)


# --- the heading of given weights ------------------------------------------------------------

LOG = np.concatenate([[-np.inf], np.linspace(0.0, 60.0, 241)])
ALONG, ACROSS = np.array([3.0, 4.0]), np.array([-0.8, 0.6])


def given(weights, log_t=LOG):
    loss = np.where(np.isinf(log_t), 1.0, 0.5 * np.exp(-np.where(np.isinf(log_t), 0.0, log_t)))
    return heading(np.exp(log_t), loss, weights.__getitem__)


def test_an_offset_does_not_matter():
    log_t = np.where(np.isinf(LOG), 0.0, LOG)[:, None]
    found = given(ALONG * log_t + 7.0 * ACROSS)
    np.testing.assert_allclose(found.direction, ALONG / 5.0, atol=1e-13)
    assert found.error < 1e-13
    assert found.left == pytest.approx(np.arctan(7.0 / (5.0 * 60.0)), rel=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_error_covers_what_is_wrong(power):
    """Of D factors: what is across grows like the logarithm of what is along."""
    log_t = np.where(np.isinf(LOG), 0.0, LOG)[:, None]
    found = given(ALONG * (1.0 + log_t) ** power + ACROSS * np.log(1.0 + log_t))
    off = angle(found.direction, ALONG)
    assert off <= 2.0 * found.error
    assert off < 0.1


def test_what_has_come_to_rest_keeps_its_direction():
    decayed = np.exp(-np.where(np.isinf(LOG), 0.0, LOG))[:, None]
    found = given(ALONG + decayed * ACROSS)
    np.testing.assert_allclose(found.direction, ALONG / 5.0, atol=1e-12)
    assert found.left < 1e-12


def test_nothing_is_told_too_early():
    assert (
        heading(np.array([0.0, 1.0]), np.array([1.0, 0.9]), ALONG[None].repeat(2, 0).__getitem__)
        is None
    )
    run = gflow.simulate(Separator(jnp.zeros(4)), logistic(*binary(0)), t1=0.1)
    with pytest.raises(ValueError, match="No direction can be told"):
        run.heading("weight")
    with pytest.raises(ValueError, match="no leaf 'w'; the leaves are weight"):
        run.heading("w")
