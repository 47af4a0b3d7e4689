"""Digits as images: how they are split, turned and relabelled, against pixels one by one."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits

from gflow import models, tasks

SHIFT = [3, 0, 1, 2, 5, 4, 6, 7, 9, 8]


def test_every_fifth_digit_of_a_class_is_held_out():
    data, task = load_digits(), tasks.digits()
    places = {"objective": [], "held_out": []}
    met = 0
    for digit in range(10):
        for i in range(1797):
            if data.target[i] == digit:
                met += 1
                places["held_out" if met % 5 == 0 else "objective"].append(i)
    assert (len(places["objective"]), len(places["held_out"])) == (1438, 359)
    for name, kept in places.items():
        part = getattr(task, name)
        np.testing.assert_array_equal(part.inputs, data.images[sorted(kept)] / 16)
        np.testing.assert_array_equal(part.labels, data.target[sorted(kept)])
    assert (float(jnp.min(task.objective.inputs)), float(jnp.max(task.objective.inputs))) == (0, 1)
    assert task.objective.inputs.dtype == jnp.float64
    assert task.classes == 10


@pytest.mark.parametrize("examples", [10, 50, 200, 719])
def test_some_examples_have_every_class_as_often(examples):
    task, some = tasks.digits(), tasks.digits(examples=examples)
    assert some.objective.inputs.shape == (examples, 8, 8)
    share = np.bincount(some.objective.labels, minlength=10) / examples
    whole = np.bincount(task.objective.labels) / 1438
    assert np.max(np.abs(share - whole)) * examples <= 1.0
    every = {x.tobytes(): int(y) for x, y in zip(
        np.asarray(task.objective.inputs), task.objective.labels, strict=True)}  # fmt: skip
    found = [every[x.tobytes()] for x in np.asarray(some.objective.inputs)]
    assert found == some.objective.labels.tolist()
    np.testing.assert_array_equal(some.held_out.inputs, task.held_out.inputs)


@pytest.mark.parametrize(("degrees", "place"), [
    (90, lambda i, j: (j, 7 - i)), (-270.0, lambda i, j: (j, 7 - i)),
    (180, lambda i, j: (7 - i, 7 - j)), (270, lambda i, j: (7 - j, i)), (360, lambda i, j: (i, j)),
])  # fmt: skip
def test_a_quarter_turn_moves_pixels(degrees, place):
    task = tasks.digits(examples=5)
    turned = task.rotated(degrees)
    for name in ("objective", "held_out"):
        before, after = (np.asarray(getattr(t, name).inputs) for t in (task, turned))
        for i in range(8):
            for j in range(8):
                np.testing.assert_array_equal(after[:, i, j], before[(slice(None), *place(i, j))])
        np.testing.assert_array_equal(getattr(turned, name).labels, getattr(task, name).labels)


def test_other_angles_turn_the_same_way_and_interpolate():
    task = tasks.digits(examples=5)
    before, after = (np.asarray(t.objective.inputs) for t in (task, task.rotated(30.0)))
    for one, turned in zip(before, after, strict=True):
        np.testing.assert_allclose(
            turned, ndimage.rotate(one, 30.0, reshape=False, order=1), rtol=0, atol=1e-14
        )
    near, quarter = (task.rotated(x).objective.inputs for x in (90.0 - 1e-9, 90.0))
    # pixels of the border fall out of the image by rounding
    np.testing.assert_allclose(near[:, 1:-1, 1:-1], quarter[:, 1:-1, 1:-1], rtol=0, atol=1e-7)
    assert np.min(after) >= 0.0
    assert np.max(after) <= 1.0


def test_labels_are_permuted():
    task = tasks.digits(examples=50)
    shifted = task.relabelled(SHIFT)
    for name in ("objective", "held_out"):
        before, after = (getattr(t, name) for t in (task, shifted))
        assert [SHIFT[label] for label in before.labels.tolist()] == after.labels.tolist()
        np.testing.assert_array_equal(before.inputs, after.inputs)
    back = shifted.relabelled(np.argsort(SHIFT))
    np.testing.assert_array_equal(back.objective.labels, task.objective.labels)


def test_the_loss_and_the_accuracy_are_those_of_the_logits():
    task = tasks.digits(examples=20).relabelled(SHIFT)
    model = models.VisionTransformer((8, 8), 4, 10, d=4, layers=1, key=jax.random.key(0))
    losses, right = [], []
    for image, label in zip(task.objective.inputs, task.objective.labels.tolist(), strict=True):
        logits = np.asarray(model(image))
        losses.append(np.log(np.sum(np.exp(logits))) - logits[label])
        right.append(np.argmax(logits) == label)
    assert float(task.objective(model)) == pytest.approx(np.mean(losses), rel=1e-12)
    assert float(task.objective.accuracy(model)) == pytest.approx(np.mean(right), rel=1e-12)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        tasks.digits()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.digits(examples=1439), "examples = 1439: choose from 1 to 1438"),
        (lambda: tasks.digits(examples=0), "examples = 0"),
        (lambda: tasks.digits(examples=5).relabelled([0] * 10), "each of 0 … 9 once"),
        (lambda: tasks.digits(examples=5).relabelled(range(9)), "each of 0 … 9 once"),
        (lambda: tasks.digits(examples=5).rotated(float("nan")), "degrees = nan"),
    ],
)
def test_what_is_no_shift_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
