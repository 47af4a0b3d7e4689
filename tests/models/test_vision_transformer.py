"""The vision transformer against loops over pixels, and a run of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_loops as loops

import gflow
from gflow import models
from gflow.models import VisionTransformer
from gflow.objectives import CrossEntropy

SIZES = dict(d=4, heads=2, head_width=3, hidden=5, layers=2)


def products(layer, key, log_alpha=0.0):
    kq, vo = (
        gflow.Factored.small((2, 4, 4), 3, log_alpha=log_alpha, key=k)
        for k in jax.random.split(key)
    )
    return models.SoftmaxAttention(kq, vo, scale=0.5)


def vit(image=(4, 6), patch=2, classes=3, **switches):
    model = VisionTransformer(image, patch, classes, **SIZES | switches, key=jax.random.key(0))
    return loops.moved(model, jax.random.key(1))


def picture(*shape):
    return jax.random.uniform(jax.random.key(5), shape)


SWITCHES = {
    "as it comes": {},
    "colours": dict(image=(4, 6, 3)),
    "class token": dict(class_token=True),
    "no positions": dict(positions=False),
    "class token without positions": dict(class_token=True, positions=False),
    "no bias": dict(bias=False),
    "no norm": dict(norm=None),
    "no residual": dict(residual=False),
    "no perceptron": dict(hidden=None),
    "no attention": dict(attention=lambda layer, key: None),
    "products": dict(attention=products),
    "single pixels": dict(patch=1),
    "one patch": dict(image=(3, 3), patch=3),
    "bare": dict(hidden=None, norm=None, bias=False, positions=False, layers=1),
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_the_logits_by_loops(switches):
    model = vit(**switches)
    image = picture(*model.image)
    np.testing.assert_allclose(model(image), loops.vision(model, image), rtol=0, atol=1e-12)


def patches_in_another_order(image):
    """The six patches of a 4 × 6 image, moved around."""
    parts = [image[i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2, 4)]
    a, b, c, d, e, f = (parts[k] for k in (4, 2, 0, 5, 1, 3))
    return jnp.concatenate([jnp.concatenate([a, b, c], 1), jnp.concatenate([d, e, f], 1)])


@pytest.mark.parametrize("class_token", [False, True])
def test_without_positions_the_patches_have_no_order(class_token):
    image = picture(4, 6)
    other = patches_in_another_order(image)
    blind = vit(positions=False, class_token=class_token)
    np.testing.assert_allclose(blind(other), blind(image), rtol=0, atol=1e-12)
    seeing = vit(class_token=class_token)
    assert np.max(np.abs(seeing(other) - seeing(image))) > 1e-3
    assert np.max(np.abs(blind(image.mT.reshape(4, 6)) - blind(image))) > 1e-3


def test_a_causal_attention_is_one_choice():
    """Then the first token, read as a class token, is blind."""
    model = vit(
        attention=lambda layer, key: models.MultiHeadAttention(4, 2, 3, causal=True, key=key),
        class_token=True,
    )
    np.testing.assert_array_equal(model(picture(4, 6)), model(-picture(4, 6)))
    assert np.max(np.abs(vit(class_token=True)(picture(4, 6)))) > 1e-3


@pytest.mark.slow
def test_a_run_keeps_names_and_ranks_of_the_products():
    model = VisionTransformer(
        (4, 4), 2, 3, **SIZES, key=jax.random.key(0),
        attention=lambda layer, key: products(layer, key, log_alpha=-50.0),
    )  # fmt: skip
    objective = CrossEntropy(picture(4, 4, 4), jnp.array([0, 1, 2, 1]))
    run = gflow.simulate(model, objective, t1=0.1, rtol=1e-4, error_bars=False)
    names = {f"layers.{layer}.attention.{name}" for layer in (0, 1) for name in ("kq", "vo")}
    assert names <= set(run.leaves)
    assert run.loss[-1] < run.loss[0]
    for layer in run.final.layers:
        for leaf in (layer.attention.kq, layer.attention.vo):
            assert isinstance(leaf, gflow.Factored)
            assert (leaf.rank, leaf.value.shape) == (3, (2, 4, 4))
            sizes = np.asarray(leaf.log_singular_values())
            assert np.all(sizes < -80.0)
            assert np.all(np.isfinite(sizes[:, :3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vit(image=(4, 5)), r"patch = 2 does not divide the image of 4 × 5"),
        (lambda: vit(image=(5, 4)), r"patch = 2 does not divide the image of 5 × 4"),
        (lambda: vit(patch=0), "patch = 0"),
        (lambda: vit(classes=0), "classes = 0"),
        (lambda: vit(image=(4,)), r"image = \(4,\).*height, width"),
        (lambda: vit(image=(4, 4, 0)), r"image = \(4, 4, 0\).*at least 1"),
        (lambda: vit(image=(0, 4)), r"image = \(0, 4\).*at least 1"),
        (lambda: vit(d=0), "d = 0"),
        (lambda: vit(heads=0), "heads = 0"),
        (lambda: vit(head_width=0), "head_width = 0"),
        (lambda: vit(hidden=0), "hidden = 0"),
        (lambda: vit(layers=0), "layers = 0"),
        (lambda: vit()(picture(6, 4)), r"shape \(6, 4\).*reads images of shape \(4, 6\)"),
        (lambda: vit()(picture(4, 6, 1)), r"shape \(4, 6, 1\).*\(4, 6\)"),
        (lambda: vit(d=5, attention=products)(picture(4, 6)), r"width 4.*\(6, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
