"""No leaf is silently left untrained, and no name stands for two quantities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.coordinates._raw import RawCoordinates
from gflow.flow._leaves import check_leaves


def small():
    return gflow.Hadamard.small(2, log_alpha=-20.0, key=jax.random.key(0))


def refused(model, match, **options):
    with pytest.raises(ValueError, match=match):
        gflow.simulate(model, lambda m: jnp.sum(m["w"].value), t1=1.0, **options)


class Scale(eqx.Module):
    w: jax.Array
    slope: float
    pair: tuple[float, ...] = (1.0, 2.0)
    rate: "float | None" = None


class Bias(eqx.Module):
    w: jax.Array
    b: jax.Array


def test_a_float_that_may_be_a_weight_is_refused():
    refused({"w": small(), "b": 0.3}, r"'b' = 0\.3 .*not trained.*jnp\.asarray\(0\.3\)")
    refused({"w": small(), "b": [1.0, jnp.ones(2)]}, r"'b\.0' = 1\.0")
    refused((small(), 0.5), r"'1' = 0\.5")
    refused(Bias(jnp.ones(2), 0.5), r"'b' = 0\.5")
    refused({"layer": Bias(jnp.ones(2), 0.5)}, r"'layer\.b' = 0\.5")


def test_a_float_declared_as_one_is_a_constant():
    check_leaves(Scale(jnp.ones(2), 0.1, rate=0.5))
    check_leaves({"first": Scale(jnp.ones(2), 0.1), "drop": eqx.nn.Dropout(0.5)})
    check_leaves({"w": small(), "b": np.float64(0.3), "count": 3, "flag": True})  # b is trained


def test_a_scalar_of_numpy_is_trained():
    run = gflow.simulate(
        {"b": np.float64(0.0)}, lambda m: 0.5 * (m["b"] - 1.0) ** 2, t1=1.0, error_bars=False
    )
    np.testing.assert_allclose(run.observables["b"][-1], 1.0 - np.exp(-1.0), rtol=1e-7)


def test_two_leaves_of_one_name_are_refused():
    refused({"a.b": small(), "a": {"b": small()}}, r"the name 'a\.b'.*Rename")
    refused({"w": small(), "w.log_abs": jnp.ones(2)}, r"the name 'w\.log_abs'")
    check_leaves({"a.b": small(), "a": {"b": gflow.Frozen(jnp.ones(2))}})  # one is not recorded


@pytest.mark.parametrize("name", ["loss", "descent", "t", "tau"])
def test_names_of_every_run_are_kept_for_it(name):
    refused({name: small()}, f"leaf of this model is called '{name}'")
    refused({"w": small()}, f"observable is called '{name}'", observables={name: lambda m: 1.0})


@pytest.mark.parametrize("name", ["w", "w.log_abs", "w.above_sqrt_alpha", "error.w"])
def test_an_observable_takes_no_name_of_another(name):
    refused({"w": small()}, f"observable is called '{name}'", observables={name: lambda m: 1.0})


class Sum(gflow.Parameter):
    one: gflow.Parameter
    other: jax.Array

    @property
    def value(self):
        return self.one.value + self.other


def test_a_parameter_that_holds_another_is_refused_unless_that_stays():
    refused({"w": Sum(small(), jnp.ones(2))}, "'w': Sum is a gflow.Parameter and holds.*Hadamard")
    held = {"w": Sum(gflow.Frozen(jnp.ones(2)), jnp.ones(2))}
    run = gflow.simulate(held, lambda m: 0.5 * jnp.sum(m["w"].value ** 2), t1=1.0)
    # other' = −(1 + other), from 1
    np.testing.assert_allclose(run.final["w"].other, 2.0 * np.exp(-1.0) - 1.0, rtol=1e-7)


class Own(gflow.Parameter):
    x: jax.Array

    @property
    def value(self):
        return self.x

    def coordinates(self, decays):
        return RawCoordinates(self.x, jnp.zeros(()))


def test_coordinates_of_its_own_need_a_way_back():
    run = gflow.simulate({"w": Own(jnp.ones(2))}, lambda m: jnp.sum(m["w"].value ** 2), t1=1.0)
    with pytest.raises(ValueError, match=r"Own has coordinates of its own.*define at_record"):
        run.model(t=1.0)
