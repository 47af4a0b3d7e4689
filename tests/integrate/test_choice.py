"""Which method a flow is followed by, and that a loose tolerance keeps the order of its error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.flow._build import build_flow
from gflow.integrate._choose import choose

SIZE = 170  # more components than are worth a dense Jacobian
RATES = jnp.geomspace(1e-2, 1e3, SIZE)


def loss(model):
    return 0.5 * jnp.sum(RATES * model["w"] ** 2)


def logarithmic(model):
    return 0.5 * jnp.sum((model["w"].value - 1.0) ** 2)


def chosen(model, objective, rtol):
    solver = choose(build_flow(model, objective), None, rtol)
    return type(solver.explicit).__name__, type(solver.stiff).__name__


@pytest.mark.parametrize(
    ("rtol", "methods"),
    [(1e-4, ("Tsit5", "RKC2")), (1e-5, ("Tsit5", "ROCK4")), (1e-8, ("Dopri8", "ROCK4"))],
)
def test_many_plain_weights(rtol, methods):
    assert chosen({"w": jnp.ones(SIZE)}, loss, rtol) == methods


@pytest.mark.parametrize("rtol", [1e-4, 1e-8])
def test_many_logarithms(rtol):
    model = {"w": gflow.Hadamard.small(SIZE, log_alpha=-30.0, key=jax.random.key(0))}
    assert chosen(model, logarithmic, rtol) == ("Dopri8", "ROCK4")


@pytest.mark.parametrize("rtol", [1e-3, 1e-4])
def test_a_loose_run_of_a_stiff_flow_is_within_its_tolerance(rtol):
    """e^{−ht} entry by entry, of rates over five decades: ten times rtol of what it started at."""
    run = gflow.simulate({"w": jnp.ones(SIZE)}, loss, t1=20.0, rtol=rtol, error_bars=False)
    exact = np.exp(-np.asarray(RATES) * 20.0)
    np.testing.assert_allclose(run.final["w"], exact, rtol=0.0, atol=10.0 * rtol)
    assert "RKC2" in run.method
