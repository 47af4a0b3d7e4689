"""Trained transformers over depth: one program for all variants, mergers, and claims that fail."""

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import gflow
from gflow import depth
from gflow.objectives import CrossEntropy
from theory.reproduce import Report
from theory.reproduce.depth_networks.layers import laws
from theory.reproduce.depth_networks.layers.measure import Course
from theory.reproduce.depth_networks.merging.measure import resampled, schedule
from theory.reproduce.depth_networks.problem import VARIANTS, Network, Switched

IMAGES = CrossEntropy(jax.random.normal(jax.random.key(0), (6, 4, 4)), np.arange(6) % 3)


def build(key, **parts):
    return gflow.models.VisionTransformer(
        (4, 4), patch=2, classes=3, key=key,
        **{"d": 4, "heads": 2, "head_width": 2, "hidden": 6, "layers": 2, **parts},
    )  # fmt: skip


NETWORK = Network("small", build, IMAGES, IMAGES, 3e-3, 2, False)


def test_chance_is_the_entropy_of_the_labels():
    assert NETWORK.chance == pytest.approx(np.log(3.0))


def test_one_program_is_every_variant():
    x = IMAGES.inputs[0]
    call = eqx.filter_jit(lambda m, x: m(x))
    for variant in VARIANTS:
        model = NETWORK.start(variant, 0)
        switched = Switched.of(model, NETWORK.start("whole", 0))
        np.testing.assert_allclose(call(switched, x), model(x), rtol=0, atol=1e-13)
        assert bool(eqx.tree_equal(switched.into(model), model))


@pytest.mark.slow
def test_a_variant_is_trained_as_it_is_alone():
    start = NETWORK.start("no-norm", 1)
    switched = NETWORK.trained(start, 1, 5)
    alone = gflow.descend(
        start, IMAGES, optimizer=optax.adam(3e-3), steps=5, batch=2,
        key=jax.random.key(1), save_every=5,
    ).final  # fmt: skip
    for x, y in zip(jax.tree.leaves(switched), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("left", "layers"), [(14, 6), (6, 6), (2, 6), (8, 4)])
def test_mergers_leave_what_is_asked_for(left, layers):
    pairs, now = schedule(16, left, layers), 16
    assert len(pairs) == layers
    assert pairs[0] == 0
    for gone in pairs:
        assert 2 * gone <= now
        now -= gone
    assert now == left


def test_too_few_layers_to_merge_by_halves():
    with pytest.raises(ValueError, match="by halves"):
        schedule(16, 1, 3)


def test_resampled_intervals_are_binomial_and_keep_pairs():
    right = (np.random.default_rng(0).random((1, 400)) < 0.8).astype(float)
    found = resampled(right)
    share = right.mean()
    assert found.mean == share
    assert found.half == pytest.approx(1.96 * np.sqrt(share * (1.0 - share) / 400), rel=0.1)
    assert resampled(right - right).half == 0.0
    # three copies of a network say no more than one
    assert resampled(np.repeat(right, 3, axis=0)).half == found.half


def course(model, draws):
    tokens = [depth.Tokens.of(x) for x in draws]
    step = eqx.filter_jit(lambda block, t: block(t))
    courses = []
    for t in tokens:
        courses.append([t])
        for block in depth.layers_of(model):
            courses[-1].append(step(block, courses[-1][-1]))
    sizes = np.array([[[float(t.log_size) for t in each] for each in courses]])
    directions = np.array([[[np.asarray(t.deviation) for t in each] for each in courses]])
    common = np.array([[[np.asarray(t.common) for t in each] for each in courses]])
    nothing = np.zeros_like(sizes)
    return Course(nothing, nothing, nothing, nothing[..., None], common, directions, sizes)


def test_the_laws_of_attention_alone_hold_and_wrong_ones_are_refuted(tmp_path):
    model = build(jax.random.key(3), layers=3, residual=False, norm=None, hidden=None)
    draws = 0.5 * jax.random.normal(jax.random.key(1), (2, 5, 4))
    found = laws.cubes(model, course(model, draws), 0)
    small = found.ranges < laws.SMALL
    assert np.sum(small) >= 2
    miss = np.abs(found.after - found.law)[small]
    assert np.all(miss <= found.allowed[small] + 1e-12)
    assert np.min(found.allowed[small]) < 1e-3
    known = found.ranges <= laws.PREMISE
    for after, bound in ((found.after, found.frobenius), (found.paper_after, found.paper)):
        assert np.all(after[known] < bound[known])
    report = Report("depth-networks", "2103.03404", tmp_path)
    laws._below(report, "holds", found.after - found.frobenius, found.ranges, "")
    # a scale of the logits that is e⁹ too small
    laws._below(report, "fails", found.after - found.frobenius + 9.0, found.ranges, "")
    laws._below(report, "nothing", found.after - found.frobenius, 2.0 + found.ranges, "")
    assert [row.verdict for row in report.rows] == ["confirmed", "refuted", "undecided"]


def test_a_layer_with_uniform_attention_is_uniform():
    block = laws._layer(NETWORK, jax.random.key(0), uniform=True, norm=None, hidden=None)
    tokens = depth.Tokens.of(jax.random.normal(jax.random.key(1), (5, 4)))
    np.testing.assert_allclose(depth.attention_weights(tokens, block), 0.2, rtol=1e-13)
