"""Conservation laws against known counts and forms, and along flows and gradient descent."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import symmetry

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def linear(*widths):
    """A deep linear network, seen by more examples than it has inputs."""
    weights = [normal(b, a) for a, b in itertools.pairwise(widths)]
    x = normal(widths[0], 2 * widths[0])

    def outputs(weights):
        out = x
        for weight in weights:
            out = weight @ out
        return out

    return weights, outputs


def two_layers(activation, inputs, width, outputs):
    x = normal(inputs, 60)
    weights = [normal(width, inputs), normal(outputs, width)]
    return weights, lambda w: w[1] @ activation(w[0] @ x)


def triangular(r):
    return r * (r + 1) // 2


@pytest.mark.parametrize(
    ("problem", "count"),
    [
        (linear(3, 2, 3), triangular(2)),
        (linear(3, 2, 3, 2), triangular(2) + triangular(3)),
        (linear(2, 2, 2, 2, 2), 3 * triangular(2)),
        # more columns than n + m: (n + m)(2r + 1 − n − m)/2 of the r(r + 1)/2 are independent
        (linear(2, 5, 2), 4 * (2 * 5 + 1 - 4) // 2),
        (two_layers(jax.nn.relu, 3, 4, 2), 4),
        (two_layers(jnp.tanh, 3, 4, 2), 0),
        (({"a": normal(), "b": normal()}, lambda m: m["a"] * jnp.exp(m["b"])), 1),
        (({"a": normal(), "b": normal()}, lambda m: m["a"] ** 2 * m["b"]), 1),
        (({"a": normal(2), "b": normal()}, lambda m: m["a"] * m["b"]), 1),
        # one law for each weight that the outputs do not see
        (({"a": normal(2), "b": normal(3)}, lambda m: m["a"]), 3),
    ],
)
def test_as_many_as_are_known(problem, count):
    laws = symmetry.conservation_laws(*problem)
    assert laws.count == count
    assert laws.independent == count
    assert laws.complete
    assert str(laws).startswith(f"{count} independent conservation laws")


def test_those_of_a_linear_network_are_its_balance():
    weights, outputs = linear(3, 2, 3)
    laws = symmetry.conservation_laws(weights, outputs)
    models = [[normal(*w.shape) for w in weights] for _ in range(12)]
    found = np.array([laws(model) for model in models])
    exact = np.array([(a @ a.T - b.T @ b)[np.triu_indices(2)] for a, b in models])
    combined, left, _, _ = np.linalg.lstsq(found, exact, rcond=None)
    assert np.max(left) < 1e-20
    assert abs(np.linalg.det(combined)) > 1e-3


def test_a_law_is_written_out():
    model = {"a": normal(), "b": normal()}
    laws = symmetry.conservation_laws(model, lambda m: m["a"] ** 2 * m["b"])
    assert [str(law) for law in laws.found] == ["0.5 a² − b²"]
    assert float(laws.found[0](model)) == pytest.approx(
        0.5 * float(model["a"]) ** 2 - float(model["b"]) ** 2
    )


def test_one_that_is_not_quadratic_is_counted_and_not_found():
    laws = symmetry.conservation_laws(
        {"a": normal(), "b": normal()}, lambda m: m["a"] * jnp.sin(m["b"])
    )
    assert (laws.count, laws.independent, laws.complete) == (1, 0, False)
    assert "1 of them not quadratic" in str(laws)


def heads(shared):
    """Two heads of width 2 in leaves of their own, whose patterns differ or not."""
    x = normal(8, 4, 3)
    patterns = jax.nn.softmax(normal(8, 2, 4, 4), axis=-1)
    if shared:
        patterns = jnp.repeat(patterns[:, :1], 2, axis=1)

    def outputs(model):
        values = [jnp.einsum("nsd,dr,er->nse", x, *model[name]) for name in "ab"]
        return jnp.einsum("nkts,knse->nte", patterns, jnp.stack(values))

    return {name: (normal(3, 2), normal(3, 2)) for name in "ab"}, outputs


def test_heads_that_share_the_force_have_laws_between_them():
    together = symmetry.conservation_laws(*heads(shared=True))
    apart = symmetry.conservation_laws(*heads(shared=False))
    # d_k² H(H − 1)/2 more than head by head
    assert apart.count == apart.independent == 2 * triangular(2)
    assert together.count == together.independent == triangular(4)
    assert any("a." in str(law) and "b." in str(law) for law in together.found)


@pytest.fixture(scope="module")
def attention():
    keys = jax.random.split(jax.random.key(0), 4)
    kq, vo = (gflow.Factored.small((2, 3, 3), 2, log_alpha=-0.5, key=k) for k in keys[:2])
    model = gflow.to_factors(gflow.models.SoftmaxAttention(kq, vo))
    x, y = (jax.random.normal(k, (12, 4, 3)) for k in keys[2:])
    return model, x, gflow.objectives.SquaredLoss(x, y)


def test_a_flow_keeps_them_and_descent_does_not(attention):
    model, x, objective = attention
    laws = symmetry.conservation_laws(model, lambda m: jax.vmap(m)(x))
    assert laws.count == laws.independent == 4 * triangular(2)
    watched = {"laws": laws, "first": laws.found[0]}
    run = gflow.simulate(model, objective, t1=3.0, observables=watched)
    size, bar = symmetry.drift(run, "laws")
    assert np.all(size <= bar)
    assert np.all(bar < 1e-8)
    np.testing.assert_array_equal(run.observables["first"], run.observables["laws"][:, 0])
    np.testing.assert_allclose(laws(run.final), laws(model), atol=1e-9)
    descent = gflow.descend(model, objective, learning_rate=1e-2, steps=200, observables=watched)
    assert np.all(symmetry.drift(descent, "laws").size > 1e-5)
    assert np.all(np.isnan(symmetry.drift(descent, "laws").bar))
    # with decay they fall as e^{−2λt}
    run = gflow.simulate(model, objective, t1=3.0, decay=0.1, observables=watched)
    expected = np.asarray(laws(model)) * np.exp(-0.6)
    np.testing.assert_allclose(run.observables["laws"][-1], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no observable 'law'"):
        symmetry.drift(run, "law")
    with pytest.raises(ValueError, match="has no leaf 'kq'"):
        laws(jnp.ones(3))


def test_factors_of_every_kind_are_read_along_a_run():
    keys = jax.random.split(jax.random.key(1), 3)
    square = gflow.Symmetric.small((3, 3), 2, log_alpha=-1.0, key=keys[1])
    model = gflow.to_factors(
        {
            "w": gflow.Hadamard.small(3, log_alpha=-1.0, key=keys[0]),
            "s": square,
            "b": jnp.full((1,), 0.1),
            "unit": gflow.Scaled(jnp.ones(3), -0.5),
            "kept": gflow.Frozen(jnp.ones(2)),
        }
    )
    x = jax.random.normal(keys[2], (10, 3))

    def outputs(m):
        quadratic = jnp.einsum("ni,ij,nj->n", x, m["s"].value, x)
        linear = x @ m["w"].value + jnp.tanh(x) @ m["unit"].value
        return jnp.concatenate([linear + m["b"], quadratic])

    laws = symmetry.conservation_laws(model, outputs)
    assert sorted(map(str, laws.found)) == [f"w.A[{i}]² − w.B[{i}]²" for i in range(3)]
    run = gflow.simulate(
        model, lambda m: jnp.mean((outputs(m) - 1.0) ** 2), t1=0.5, observables={"laws": laws}
    )
    assert np.all(symmetry.drift(run, "laws").size <= symmetry.drift(run, "laws").bar)
    u, v = model["w"].factors
    np.testing.assert_allclose(np.sort(np.abs(laws(model))), np.sort(np.abs(u**2 - v**2)))


@pytest.mark.parametrize(
    ("model", "outputs", "message"),
    [
        (
            {"w": gflow.Hadamard(jnp.ones(2), jnp.zeros(2))},
            lambda m: m["w"].value,
            r"gflow\.to_factors\(model\)",
        ),
        ({"w": jnp.ones(2, jnp.float32)}, lambda m: m["w"], "is not float64"),
        ({"w": gflow.Frozen(jnp.ones(2))}, lambda m: m["w"].value, "nothing to train"),
        ({"w": jnp.ones(2)}, lambda m: jnp.zeros(3), "cannot be decided"),
        ({"w": jnp.ones(2)}, lambda m: jnp.zeros(3, int), "an array of real numbers"),
    ],
)
def test_bad_input_is_a_sentence(model, outputs, message):
    with pytest.raises(ValueError, match=message):
        symmetry.conservation_laws(model, outputs)
