"""The annotations of the packages are checked in every test, shapes across arguments as well."""

import jax.numpy as jnp
import numpy as np
import pytest
from annotations_checked import checked
from beartype.roar import BeartypeCallHintViolation as Violation
from jaxtyping import Array, Float, TypeCheckError

import gflow
from gflow.coordinates._factors import FactorCoordinates
from gflow.coordinates._gauge import product


@checked(typechecker=None)
def outer(a: Float[Array, " n"], b: Float[np.ndarray, " m"], wrong: bool = False):
    return inner(a, b.T if not wrong else b[1:])


@checked(typechecker=None)
def inner(a: Float[Array, " m"], b: Float[np.ndarray, " n"]) -> Float[Array, "m n"]:
    return a[:, None] * b[None] if len(b) < 5 else a[:, None] * b[None, 1:]


def test_a_letter_means_one_size_in_a_call_and_another_in_the_next():
    assert outer(jnp.ones(2), np.ones(3)).shape == (2, 3)
    assert outer(jnp.ones(3), np.ones(2)).shape == (3, 2)
    with pytest.raises(Violation, match="return"):
        inner(jnp.ones(2), np.ones(5))
    assert outer(jnp.ones(2), np.ones(5), wrong=True).shape == (2, 4)


@pytest.mark.parametrize("a", [jnp.ones((2, 2)), jnp.ones(2, int), np.ones(2), 1.0, "ones"])
def test_rank_type_and_kind_are_checked(a):
    with pytest.raises(Violation, match="parameter a="):
        inner(a, np.ones(3))


def test_the_packages_are_checked():
    with pytest.raises(Violation):  # k is 3 and 2
        product(jnp.ones((2, 3)), jnp.ones((2, 2)))
    with pytest.raises(Violation):
        gflow.rescale(gflow.Scaled(jnp.ones(2), 0.0), "small")
    with pytest.raises(TypeCheckError):  # fields, when an object is made
        FactorCoordinates(jnp.ones(2, int), jnp.ones(2, int))
