"""The layers of a transformer over depth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import depth

SIZES = dict(patch=4, classes=3, d=6, heads=2, head_width=3, hidden=8)


def transformer(layers, **options):
    return gflow.models.VisionTransformer(
        (8, 8), **SIZES, layers=layers, key=jax.random.key(0), **options
    )


def test_layers_are_those_of_the_transformer():
    vit = transformer(3)
    x = jax.random.normal(jax.random.key(1), (4, 6))
    run = depth.follow(depth.layers_of(vit), x)
    exact = x
    for layer in vit.layers:
        exact = layer(exact)
    np.testing.assert_allclose(run.final.value, exact, rtol=0, atol=1e-12)
    plain = depth.follow(vit.layers, x)
    np.testing.assert_allclose(
        plain.observables["log_apart"], run.observables["log_apart"], atol=1e-10
    )


@pytest.mark.slow
def test_without_residuals_tokens_collapse_cubically_and_with_them_they_do_not():
    x = jax.random.normal(jax.random.key(1), (4, 6))
    bare = transformer(12, residual=False, positions=False)
    run = depth.follow(depth.layers_of(bare), x)
    log = run.observables["log_apart"]
    assert np.all(run.resolved)
    assert log[-1] < -1e4
    assert log[-1] / log[-2] == pytest.approx(3.0, rel=1e-2)
    kept = depth.follow(depth.layers_of(transformer(12)), x)
    assert kept.observables["log_apart"][-1] > -5.0


def test_what_has_no_such_layers_is_refused():
    causal = gflow.models.Block(gflow.models.MultiHeadAttention(
        6, heads=2, head_width=3, causal=True, key=jax.random.key(0)))  # fmt: skip
    for model, words in (
        (eqx.tree_at(lambda m: m.layers, transformer(1), (causal,)), "causal"),
        (eqx.tree_at(lambda m: m.layers, transformer(1), (jnp.ones(2),)), "no layers"),
    ):
        with pytest.raises(ValueError, match=words):
            depth.layers_of(model)
