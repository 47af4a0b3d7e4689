"""Flows along a velocity of the user's, against exact solutions, SciPy and the gradient flow."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kinds import Linear
from scipy.integrate import solve_ivp

import gflow
import theory
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss
from gflow.velocity import Entries, Momentum, Sign, Tangent, Velocity

X = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
Y = np.array([1.0, -0.4])
LOSS = SquaredLoss(X, Y, "half_sum")
KEY = jax.random.key(0)


class Gradient(Velocity):
    def __call__(self, t, factors, forces, memory):
        return forces, memory


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


class Cubed(gflow.Parameter):
    u: jax.Array

    @property
    def value(self):
        return self.u**3


def of_all(model):
    """Every leaf towards a target of its own."""
    weights = {name: getattr(x, "value", x) for name, x in model.items()}
    return sum(0.5 * jnp.sum((w - random(*w.shape, seed=5)) ** 2) for w in weights.values())


LEAVES = {
    "plain": random(4),
    "entries": gflow.Hadamard.small(4, log_alpha=-1.0, key=KEY),
    "factored": gflow.Factored.small((3, 4), 2, log_alpha=-3.0, key=KEY),
    "heads": gflow.Factored.small((2, 3, 3), 2, log_alpha=-3.0, key=KEY),
    "chain": gflow.Product(random(3, 2), random(2, 2, seed=1), random(2, 4, seed=2)),
    "symmetric": gflow.Symmetric.small((3, 3), 2, log_alpha=-3.0, key=KEY),
    "own": Cubed(jnp.array([0.3, 0.2, 0.5])),
    "scaled": gflow.Scaled(random(3), log_scale=-2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.1, pytest.param(lambda t: 0.1 * jnp.exp(-t), id="λ(t)")])
def test_along_the_gradient_it_is_the_gradient_flow(decay):
    ends = dict(t1=1.5, decay=decay, rtol=1e-9, save=[0.4, 1.1])
    run = gflow.simulate(LEAVES, of_all, velocity=Gradient(), **ends)
    other = gflow.simulate(LEAVES, of_all, **ends)
    assert run.status is gflow.Status.reached
    assert run.method.endswith("velocity Gradient")
    for t in (0.0, 0.4, 1.1, 1.5):
        i, j = (int(np.searchsorted(x.t, t)) for x in (run, other))
        assert run.t[i] == other.t[j] == t
        assert run.descent[i] == pytest.approx(other.descent[j], rel=1e-6)
        for name in LEAVES:
            bar = run.error[name][i] + other.error[name][j] + 1e-14
            off = np.abs(run.observables[name][i] - other.observables[name][j])
            assert np.all(off <= bar), name
    for name in LEAVES:
        moved = np.max(np.abs(run.observables[name][-1] - run.observables[name][0]))
        assert moved > 0.05, name


CURVATURES = np.array([0.05, 1.0, 4.0])  # over-damped, and two that swing
LASTS = 2.0


def swinging(t, start):
    """x of T x'' + x' + λx = 0 from rest."""
    root = np.sqrt(1.0 - 4.0 * LASTS * CURVATURES.astype(complex))
    slow, fast = (-1.0 + root) / (2.0 * LASTS), (-1.0 - root) / (2.0 * LASTS)
    t = np.asarray(t)[..., None]
    return np.real(start * (slow * np.exp(fast * t) - fast * np.exp(slow * t)) / (slow - fast))


def bowl(model):
    return 0.5 * jnp.sum(CURVATURES * model["x"] ** 2)


@pytest.mark.slow
def test_momentum_swings_about_the_rest():
    start = np.array([1.0, -0.5, 2.0])
    run = gflow.simulate(
        {"x": jnp.asarray(start)}, bowl, t1=12.0, velocity=Momentum(LASTS),
        save=np.linspace(0.0, 12.0, 200),
    )  # fmt: skip
    exact = swinging(run.t, start)
    off, bar = np.abs(run.observables["x"] - exact), run.error["x"]
    assert np.max(off) < 1e-7
    assert np.all(off <= 3.0 * bar + 1e-13)
    # between steps it is solved from the memory that was recorded
    for t in (0.123, 5.71, 11.9):
        np.testing.assert_allclose(run.model(t=t)["x"], swinging(t, start), atol=1e-7)
    assert np.min(run.descent) < 0.0 < np.max(run.descent)
    fall = np.sum(0.5 * (run.descent[1:] + run.descent[:-1]) * np.diff(run.t))
    assert fall == pytest.approx(run.loss[0] - run.loss[-1], rel=2e-3)


def test_momentum_comes_to_rest():
    run = gflow.simulate({"x": jnp.array([1.0, -0.5, 2.0])}, bowl, velocity=Momentum(LASTS))
    assert run.status is gflow.Status.converged
    assert np.max(np.abs(run.final["x"])) < 1e-8
    assert run.t[-1] < 2e3  # e^{−t/20}, e^{−t/4}: not until floats underflow


def test_momentum_on_a_saddle_is_not_at_rest():
    def saddle(model):
        return 0.5 * (model["x"][0] ** 2 - model["x"][1] ** 2) + model["x"][1] ** 4

    with pytest.warns(UserWarning, match="saddle"):
        run = gflow.simulate({"x": jnp.array([1.0, 0.0])}, saddle, velocity=Momentum(0.3))
    assert run.status is gflow.Status.saddle


def test_short_memories_are_the_gradient_flow():
    start = {"x": jnp.array([1.0, -0.5, 2.0])}
    ends, truth = [], np.asarray(start["x"]) * np.exp(-CURVATURES * 1.0)
    for lasts in (1e-2, 1e-3):
        run = gflow.simulate(start, bowl, t1=1.0, velocity=Momentum(lasts), error_bars=False)
        ends.append(np.max(np.abs(run.final["x"] - truth)))
    assert math.log10(ends[0] / ends[1]) == pytest.approx(1.0, abs=0.05)


def test_sign_flow_rests_entry_by_entry():
    width = 1e-3
    run = gflow.simulate({"x": jnp.array([0.4, -0.2, 0.3])}, bowl, t1=0.35, velocity=Sign(width))

    def field(_, x):
        g = -CURVATURES * x
        return g / np.sqrt(g**2 + width**2)

    exact = solve_ivp(field, (0.0, 0.35), [0.4, -0.2, 0.3], method="Radau", rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(run.final["x"], exact.y[:, -1], atol=1e-8)
    # at speed one where forces are, whatever they are
    assert run.final["x"][2] == pytest.approx(0.0, abs=1e-6)
    rest = gflow.simulate({"x": jnp.array([0.4, -0.2, 0.3])}, bowl, velocity=Sign(width))
    assert rest.status is gflow.Status.converged


# --- the tangent flow of the whole matrix ---------------------------------------------


def tangent_flow(start, target, rank, t):
    def field(_, y):
        w = y.reshape(start.shape)
        u, _, vt = np.linalg.svd(w)
        p, q = u[:, :rank] @ u[:, :rank].T, vt[:rank].T @ vt[:rank]
        g = w - target
        return -(p @ g + g @ q - p @ g @ q).ravel()

    found = solve_ivp(field, (0.0, t), start.ravel(), method="DOP853", rtol=1e-12, atol=1e-14)
    return found.y[:, -1].reshape(start.shape)


def balanced(w, rank):
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    root = np.sqrt(s[:rank])
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(rank, rank)))[0]
    return (u[:, :rank] * root) @ turn, (vt[:rank].T * root) @ turn


@pytest.mark.parametrize(
    "rank", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_the_product_moves_as_a_matrix_of_its_rank(rank):
    rng = np.random.default_rng(rank)
    target = rng.normal(size=(4, 3))
    whole = 0.3 * rng.normal(size=(4, rank)) @ rng.normal(size=(rank, 3))
    left, right = balanced(whole, rank)
    run = gflow.simulate(
        {"w": gflow.Factored(left, right)}, lambda m: 0.5 * jnp.sum((m["w"].value - target) ** 2),
        t1=1.5, velocity=Tangent(), rtol=1e-9,
    )  # fmt: skip
    w = run.observables["w"][-1]
    np.testing.assert_allclose(w, tangent_flow(whole, target, rank, 1.5), atol=3e-9)
    b, a = run.final["w"].factors
    np.testing.assert_allclose(b.T @ b, a @ a.T, atol=1e-9)
    if rank == 3:  # nothing is projected away: full fine-tuning at rate one
        np.testing.assert_allclose(w, target + (whole - target) * math.exp(-1.5), atol=3e-9)


def test_where_w_loses_its_rank_the_run_ends():
    start = np.diag([0.5, -0.4])  # and on the straight way to the unit matrix det W = 0
    left, right = balanced(start, 2)
    with pytest.warns(UserWarning, match="step size shrank"):
        run = gflow.simulate(
            {"w": gflow.Factored(left, right)},
            lambda m: 0.5 * jnp.sum((m["w"].value - jnp.eye(2)) ** 2), t1=2.0, velocity=Tangent(),
        )  # fmt: skip
    assert run.t[-1] == pytest.approx(math.log(1.4), abs=1e-6)  # where 1 − 1.4 e^{−t} = 0


@pytest.mark.slow
def test_heads_move_each_for_itself():
    targets = np.asarray(random(2, 3, 3, seed=3))
    starts = [0.5 * np.outer(random(3, seed=k), random(3, seed=k + 7)) for k in (0, 1)]
    pairs = [balanced(w, 1) for w in starts]
    leaf = gflow.Factored(*(np.stack(x) for x in zip(*pairs, strict=True)))

    def loss(m):
        return 0.5 * jnp.sum((m["w"].value - targets) ** 2) + 0.5 * jnp.sum((m["b"] - 1) ** 2)

    run = gflow.simulate({"w": leaf, "b": jnp.zeros(2)}, loss, t1=1.0, velocity=Tangent())
    for h in range(2):
        exact = tangent_flow(starts[h], targets[h], 1, 1.0)
        np.testing.assert_allclose(run.observables["w"][-1, h], exact, atol=3e-8)
    # a plain weight follows its gradient
    np.testing.assert_allclose(run.final["b"], 1.0 - math.exp(-1.0), atol=1e-8)


def test_odelora_in_closed_form():
    target, u, v = np.asarray(random(3, 4)), np.asarray(random(3)), np.asarray(random(4, seed=1))
    units, size = [x[:, None] / np.linalg.norm(x) for x in (u, v)], 1e-2
    leaf = gflow.Factored(*(math.sqrt(size) * x for x in units))
    run = gflow.simulate(
        {"w": leaf}, lambda m: 0.5 * jnp.sum((m["w"].value - target) ** 2), t1=2.0, rtol=1e-10,
        velocity=Tangent(), save=[0.1, 0.7],
    )  # fmt: skip
    exact = theory.odelora.rank_one(target, u, v, size, run.t)
    np.testing.assert_allclose(run.observables["w"], exact.weight, atol=1e-9)


# --- what is handed to a velocity, and what is refused --------------------------------


def test_arrays_that_a_velocity_reads_are_those_of_the_moment():
    class Scaled(Velocity):
        def __call__(self, t, factors, forces, memory):
            return jax.tree.map(lambda g: rates * g, forces), memory

    start = {"x": jnp.array([1.0, 1.0, 1.0])}
    for value in (1.0, 2.0):
        rates = np.full(3, value)
        run = gflow.simulate(start, bowl, t1=0.5, velocity=Scaled())
        np.testing.assert_allclose(run.final["x"], np.exp(-0.5 * value * CURVATURES), atol=1e-7)
    for value in (1.0, 3.0):
        one = gflow.simulate(start, bowl, t1=0.5, velocity=Momentum(value)).final["x"]
        assert abs(one[1] - np.exp(-0.5)) > 0.1
    assert float(one[2]) == pytest.approx(1.0 - 4.0 * 0.5**2 / (2 * 3.0), abs=0.05)


def test_factors_come_by_leaf_as_plain_arrays():
    seen = {}

    class Looks(Velocity):
        def __call__(self, t, factors, forces, memory):
            seen.update({name: type(x) for name, x in factors.items()})
            assert jax.tree.structure(factors) == jax.tree.structure(forces)
            return forces, memory

    model = {name: LEAVES[name] for name in ("plain", "entries", "factored", "chain", "own")}

    def loss(m):
        return sum(jnp.sum(getattr(x, "value", x) ** 2) for x in m.values())

    gflow.simulate(model, loss, t1=0.1, velocity=Looks(), error_bars=False)
    assert seen["plain"].__name__.endswith("Tracer")
    assert seen["entries"] is Entries
    assert seen["factored"] is seen["chain"] is tuple
    assert seen["own"] is Cubed


def test_a_prediction_of_the_gradient_flow_is_refuted():
    model = DiagonalLinear(gflow.Hadamard.small(4, log_alpha=-6.0, key=KEY))
    prediction = theory.gradual_rank.predict(model, LOSS)
    run = gflow.simulate(model, LOSS, tau1=2.0, velocity=Gradient())
    found = {c.key: c.verdict for c in theory.compare(run, prediction).claims}
    assert found["start.velocity"] == "refuted"
    plain = gflow.simulate(model, LOSS, tau1=2.0)
    assert "start.velocity" not in {c.key for c in theory.compare(plain, prediction).claims}


class Logarithm(gflow.coordinates.Coordinates):
    x: jax.Array

    def start(self):
        return self.x

    def value(self, state):
        return jnp.exp(state)

    def velocity(self, state, force, decay):
        return jnp.exp(-state) * force - decay


class Positive(gflow.Trainable):
    value: jax.Array

    def coordinates(self, decays):
        return Logarithm(jnp.log(self.value))

    def at_record(self, record, time):
        return Positive(jnp.asarray(record["value"]))


class Wrong(Velocity):
    def __call__(self, t, factors, forces, memory):
        return {name: jnp.sum(x) for name, x in forces.items()}, memory


class Alone(Velocity):
    def __call__(self, t, factors, forces, memory):
        return forces


class Elsewhere(Velocity):
    def memory(self, factors):
        return {"z": jnp.zeros(2)}

    def __call__(self, t, factors, forces, memory):
        return forces, memory


PLAIN = {"x": jnp.ones(3)}


@pytest.mark.parametrize(
    ("model", "velocity", "message"),
    [
        (PLAIN, Wrong(), "has the structure and shapes"),
        (PLAIN, Alone(), "returns two"),
        (PLAIN, Elsewhere(), r"'z', which is no leaf; the leaves are x"),
        ({"x": Positive(jnp.ones(3))}, Gradient(), "held in Moved|held in Logarithm"),
        ({"x": gflow.Hadamard.small((3, 3), log_alpha=-3.0, key=KEY)}, Tangent(), "no product of"),
        ({"x": gflow.Product(*[jnp.eye(3)] * 3)}, Tangent(), "no product of two matrices"),
        ({"x": gflow.Hadamard.small(3, log_alpha=-1e4, key=KEY)}, Sign(1.0), "below the float"),
    ],
)
def test_bad_input_is_a_sentence(model, velocity, message):
    def loss(m):
        return 0.5 * jnp.sum((getattr(m["x"], "value", m["x"]) - 0.5) ** 2)

    with pytest.raises(ValueError, match=message):
        gflow.simulate(model, loss, t1=1.0, velocity=velocity)


@pytest.mark.parametrize("make", [Sign, Momentum])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_numbers_of_velocities(make, value):
    with pytest.raises(ValueError, match="positive number"):
        make(value)


def test_plain_models_of_every_kind():
    run = gflow.simulate(Linear(random(4)), LOSS, t1=5.0, velocity=Momentum(1.0))
    assert run.loss[-1] < 0.5 * run.loss[0]


def test_the_page_does_what_it_says(capsys):
    page = Path(__file__).parents[2] / "docs/extend/a_velocity.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("velocity ")[1].split()[0] for line in shown[1:]] == [
        "Normalised", "Adam", "Tangent",
    ]  # fmt: skip
    assert names["run"].status is gflow.Status.reached
