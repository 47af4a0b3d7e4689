"""One scale α, by its natural logarithm, its power of ten or itself, wherever it is taken."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from staged_runs import model, objective

import gflow
import theory

KEY = jax.random.key(0)
ONES = jnp.ones((2, 2))
START = model(30)
PREDICTION = theory.gradual_rank.predict(START, objective())


def leaf(x):
    """log α of a leaf, or of the only one of a model."""
    found = jax.tree.leaves(x, is_leaf=lambda n: isinstance(n, gflow.Parameter))
    return float(found[0].log_alpha)


def plain(**scale):
    """Ends at τ = 1 of a model that knows no α."""
    return {"model": {"w": ONES[0]}, "objective": lambda m: jnp.sum(m["w"] ** 2), **scale}


#: Every function that takes α, as a function of the three arguments to what it made of them.
CALLS = {
    gflow.Hadamard: lambda **s: leaf(gflow.Hadamard(ONES, 0 * ONES, **s)),
    gflow.Hadamard.small: lambda **s: leaf(gflow.Hadamard.small(3, key=KEY, **s)),
    gflow.Hadamard.from_scales: lambda **s: leaf(
        gflow.Hadamard.from_scales(log_s=0.0, log_d=0.0, **s)
    ),
    gflow.Factored: lambda **s: leaf(gflow.Factored(ONES, ONES, **s)),
    gflow.Factored.small: lambda **s: leaf(gflow.Factored.small((2, 2), 1, key=KEY, **s)),
    gflow.Symmetric.small: lambda **s: leaf(gflow.Symmetric.small((2, 2), 1, key=KEY, **s)),
    gflow.rescale: lambda **s: leaf(gflow.rescale(START, **s)),
    gflow.simulate: lambda **s: -gflow.simulate(tau1=0.01, error_bars=False, **plain(**s)).scale,
    gflow.simulate_batch: lambda **s: -gflow.simulate_batch(
        {"w": jnp.ones((2, 2))}, lambda m: jnp.sum(m["w"] ** 2), tau1=0.01, error_bars=False, **s
    )[1].scale,
    gflow.descend: lambda **s: -gflow.descend(learning_rate=0.01, steps=2, **plain(**s)).scale,
    gflow.models.woodworth: lambda **s: leaf(gflow.models.woodworth(2, **s)),
    gflow.models.DeepLinear.small: lambda **s: float(
        gflow.models.DeepLinear.small((2, 2, 2, 2), key=KEY, **s).weights[0].log_scale
    ),
    gflow.models.FactoredLinear.small: lambda **s: leaf(
        gflow.models.FactoredLinear.small((2, 2), 1, key=KEY, **s)
    ),
    gflow.models.FactoredLinear.lora: lambda **s: leaf(
        gflow.models.FactoredLinear.lora(ONES, 1, key=KEY, **s)
    ),
    gflow.models.SymmetricFactored: lambda **s: leaf(gflow.models.SymmetricFactored(ONES, **s)),
    gflow.models.SymmetricFactored.small: lambda **s: leaf(
        gflow.models.SymmetricFactored.small(2, 1, key=KEY, **s)
    ),
    theory.Prediction.at: lambda **s: PREDICTION.at(**s).log_alpha,
    theory.gradual_rank.predict: lambda **s: theory.gradual_rank.predict(
        gflow.models.DiagonalLinear(gflow.Hadamard(1e-30 * ONES[0], 5e-31 * ONES[0])),
        gflow.objectives.SquaredLoss(ONES, ONES[0]), max_stages=1, **s
    ).origin.log_alpha,
    theory.gradual_rank.predict_batch: None,
    theory.remainder.remainder: None,
}  # fmt: skip


def taking_alpha():
    """Every public function and class with an argument log_alpha, but what leaves are asked for."""
    found = set()

    def look(owner, depth):
        for name in getattr(owner, "__all__", [n for n in dir(owner) if n[0] != "_"]):
            one = getattr(owner, name)
            if one is gflow.internal:
                continue
            if inspect.ismodule(one) and depth and one.__name__.startswith(owner.__name__):
                look(one, depth - 1)
            if not getattr(one, "__module__", "").startswith(("gflow", "theory")):
                continue
            inner = (
                [getattr(one, n) for n in dir(one) if n[0] != "_"] if inspect.isclass(one) else []
            )
            for f in (one, *inner):
                if callable(f) and "log_alpha" in _arguments(f):
                    found.add(getattr(f, "__func__", f))

    look(gflow, 1)
    look(theory, 1)
    return found


def _arguments(f):
    try:
        return list(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        return []


@pytest.mark.parametrize("call", [c for c in CALLS.values() if c], ids=range(18))
def test_the_three_are_one_scale(call):
    exact = -30.0 * math.log(10.0)
    for given in ({"log_alpha": exact}, {"log10_alpha": -30}, {"alpha": 1e-30}):
        assert call(**given) == pytest.approx(exact, rel=1e-15)
    with pytest.raises(ValueError, match=r"alpha = .* and log10_alpha = -30 were given"):
        call(alpha=1e-30, log10_alpha=-30)


#: Protocols that leaves fulfil, and data classes whose field it is.
NOT_CALLED_BY_USERS = ("rescaled", "numbers", "from_records", "alpha_label", "finite_grid")


def test_none_is_left_out():
    known = {getattr(f, "__func__", f) for f in CALLS}
    for f in taking_alpha() - known:
        data = inspect.isclass(f) and hasattr(f, "__dataclass_fields__")
        inherited = f in (gflow.Symmetric, theory.plot.Predicted.at)
        assert data or inherited or f.__name__ in NOT_CALLED_BY_USERS, f
    for f in known:
        names = _arguments(f)
        assert {"log_alpha", "log10_alpha", "alpha"} <= set(names), f


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "scale α is missing: give alpha=1e-100"),
        ({"alpha": 0.0}, r"alpha = 0.0 is no scale.*log10_alpha=-400"),
        ({"alpha": 1e-320}, r"alpha = 1e-320 is no scale"),  # a float of four digits
        ({"alpha": -230.0}, "a logarithm is log_alpha"),
        ({"alpha": math.inf}, "is no scale"),
        ({"log10_alpha": math.nan}, "positive and finite"),
        ({"log_alpha": -1.0, "alpha": 0.1}, "give α once"),
    ],
)
def test_what_is_no_scale_is_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        gflow.Hadamard.small(3, key=KEY, **given)


def test_traced_scales_are_taken():
    def made(name):
        return lambda a: gflow.Hadamard.small(3, key=KEY, **{name: a}).log_alpha

    powers = np.array([-3.0, -40.0])
    for name, values in (("alpha", 10.0**powers), ("log10_alpha", powers)):
        found = jax.vmap(made(name))(jnp.asarray(values))
        np.testing.assert_allclose(found, powers * math.log(10.0), rtol=1e-15)


def test_the_remainder_takes_the_three():
    assert math.log(1e-100) == -100.0 * math.log(10.0)  # to the last bit
    one, *others = (
        theory.remainder.remainder(PREDICTION, **x).time
        for x in ({"log_alpha": math.log(1e-100)}, {"log10_alpha": -100}, {"alpha": 1e-100})
    )
    for other in others:
        np.testing.assert_array_equal(one, other)
