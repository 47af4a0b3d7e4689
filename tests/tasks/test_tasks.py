import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import tasks
from gflow.models import DiagonalAttention, DiagonalLinear
from gflow.parameters._hadamard import HadamardFactors


def plain(array):
    """A parameter whose value is `array` and can be differentiated."""
    return HadamardFactors(array, jnp.ones_like(array))


def forces(task, kq, vo):
    """−∂L/∂kq and −∂L/∂vo."""

    def descent(kq, vo):
        return -task.objective(DiagonalAttention(plain(kq), plain(vo)))

    return jax.grad(descent, argnums=(0, 1))(jnp.asarray(kq), jnp.asarray(vo))


def smallest_gap(sizes):
    """Relative distance of the two closest sizes."""
    ordered = np.sort(np.abs(np.ravel(sizes)))
    return np.min(np.diff(ordered) / ordered[1:])


def softmax_head(x, kq, vo):
    """The head in a loop over tokens, without JAX."""
    out = np.zeros_like(x)
    for t, query in enumerate(x):
        score = np.exp([np.sum(query * kq * token) for token in x])
        out[t] = vo * (score @ x) / score.sum()
    return out


def head(log_alpha, d, heads=1):
    kq, vo = (
        gflow.Hadamard.small((heads, d), log_alpha=log_alpha, key=key)
        for key in jax.random.split(jax.random.key(1))
    )
    return DiagonalAttention(kq, vo)


def test_the_fixture_has_the_published_numbers_and_saddles():
    task = tasks.zhao_fixture()
    np.testing.assert_array_equal(task.inputs, [[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
    np.testing.assert_array_equal(task.targets, [1, 0])
    assert task.objective.reduction == "half_sum"

    def descent(k):
        return -task.objective(DiagonalLinear(plain(k)))

    # on each saddle the active coordinates feel no force
    for saddle in ([4 / 5, 0, 0, 0], [0, 0, 7 / 5, 0], [0, 0, 10 / 7, -10 / 49]):
        force = np.asarray(jax.grad(descent)(jnp.array(saddle)))
        assert np.max(np.abs(force[np.nonzero(saddle)])) < 1e-15
    np.testing.assert_allclose(force, 0.0, atol=1e-15)
    # the first stage is at τ = 1/max|g(0)| = 1
    np.testing.assert_allclose(jax.grad(descent)(jnp.zeros(4)), [1, 0.5, 0.7, 0])


def test_the_teacher_is_a_softmax_head_and_has_no_loss():
    task = tasks.teacher_student(key=jax.random.key(3), examples=7, tokens=5)
    assert task.inputs.shape == task.targets.shape == (7, 5, 4)
    assert task.inputs.dtype == task.targets.dtype == jnp.float64
    for x, y in zip(np.asarray(task.inputs), task.targets, strict=True):
        expected = softmax_head(x, tasks.TEACHER_KQ[0], tasks.TEACHER_VO[0])
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    assert task.objective(task.teacher) == 0.0


def test_a_teacher_of_several_heads_is_their_sum():
    kq, vo = tasks.random_teacher(3, heads=2, key=jax.random.key(4))
    both, first, second = (
        tasks.teacher_student(key=jax.random.key(5), kq=k, vo=v, examples=6, scale=0.5)
        for k, v in ((kq, vo), (kq[0], vo[0]), (kq[1], vo[1]))
    )
    np.testing.assert_array_equal(both.inputs, first.inputs)
    np.testing.assert_allclose(both.targets, first.targets + second.targets, rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        tasks.teacher_student,
        lambda *, key: tasks.digits_rows(key=key, examples=40),
        lambda *, key: tasks.teacher_student(key=key, scale=0.5, tokens=3),
    ],
)
def test_random_data_depend_on_the_key_alone(make):
    one, same, other = (make(key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.inputs, same.inputs)
    np.testing.assert_array_equal(one.targets, same.targets)
    assert np.max(np.abs(one.inputs - other.inputs)) > 0.1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "make", [tasks.teacher_student, lambda *, key: tasks.digits_rows(key=key, examples=200)]
)
def test_no_two_forces_tie_at_the_start(make, seed):
    task = make(key=jax.random.key(seed))
    d = task.inputs.shape[-1]
    g_kq, g_vo = forces(task, jnp.zeros((1, d)), jnp.zeros((1, d)))
    # without vo the output is zero whatever kq is
    np.testing.assert_array_equal(g_kq, 0.0)
    # attention is uniform, so g_vo = Σ_t ⟨mean token, target⟩ averaged over examples
    mean = np.mean(task.inputs, axis=1, keepdims=True)
    expected = np.mean(np.sum(mean * np.asarray(task.targets), axis=1), axis=0)
    np.testing.assert_allclose(g_vo[0], expected, rtol=1e-12)
    assert smallest_gap(g_vo) > 0.01
    # nor do those of kq, once a vo is active
    winner = np.argmax(np.abs(g_vo[0]))
    g_kq, _ = forces(task, jnp.zeros((1, d)), jnp.zeros((1, d)).at[0, winner].set(0.7))
    assert smallest_gap(g_kq) > 0.001


def test_random_teachers_have_spread_sizes_of_both_signs():
    kq, vo = tasks.random_teacher(6, heads=3, key=jax.random.key(0))
    assert kq.shape == vo.shape == (3, 6)
    for row in (*(2 * kq), *vo):
        sizes = np.sort(np.abs(row))[::-1]
        # neighbours are at least half a step of the ladder apart
        assert np.all(np.diff(np.log(sizes)) <= -0.5 * np.log(6) / 6 + 1e-12)
        assert 2 / 6 <= sizes[-1] < sizes[0] <= 2
    assert set(np.unique(np.sign(np.concatenate([kq, vo])))) == {-1.0, 1.0}
    assert not np.allclose(np.abs(2 * kq), np.abs(vo))
    again, _ = tasks.random_teacher(6, heads=3, key=jax.random.key(0))
    np.testing.assert_array_equal(kq, again)


def test_diabetes_is_centred_and_its_loss_is_half_the_unexplained_variance():
    task = tasks.diabetes()
    x, y = np.asarray(task.inputs), np.asarray(task.targets)
    assert x.shape == (442, 10)
    assert len(task.names) == 10
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(x, axis=0), 1.0, rtol=1e-12)
    assert abs(y.mean()) < 1e-15
    np.testing.assert_allclose(np.linalg.norm(y), 1.0, rtol=1e-14)
    # forces at zero are correlations: the largest is that of the body mass index
    correlation = x.T @ y
    assert task.names[np.argmax(np.abs(correlation))] == "bmi"
    np.testing.assert_allclose(np.max(np.abs(correlation)), 0.5865, atol=5e-5)
    assert smallest_gap(correlation) > 1e-4
    weight, *_ = np.linalg.lstsq(x, y, rcond=None)
    r_squared = np.corrcoef(x @ weight, y)[0, 1] ** 2
    loss = task.objective(DiagonalLinear(plain(jnp.asarray(weight))))
    np.testing.assert_allclose(loss, (1 - r_squared) / 2, rtol=1e-12)


def test_the_rows_of_all_components_are_the_images_less_their_brightness():
    from sklearn import datasets

    images = datasets.load_digits().images / 16
    task = tasks.digits_rows(key=jax.random.key(0), components=8)
    assert task.inputs.shape == task.targets.shape == (1797, 8, 8)
    expected = images - images.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(task.images(task.targets), expected, atol=1e-13)
    np.testing.assert_allclose(task.directions.T @ task.directions, np.eye(8), atol=1e-14)
    np.testing.assert_allclose(np.mean(task.targets**2), 1.0, rtol=1e-12)


def test_digit_components_are_ordered_and_uncorrelated():
    task = tasks.digits_rows(key=jax.random.key(0), components=5)
    covariance = np.cov(np.asarray(task.targets).reshape(-1, 5), rowvar=False)
    variance = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(variance), atol=1e-12)
    assert np.all(np.diff(variance) < 0)
    assert task.images(task.targets[:2]).shape == (2, 8, 8)


def test_digit_noise_has_the_given_size_and_a_subset_keeps_it():
    key = jax.random.key(2)
    task, some = (
        tasks.digits_rows(key=key, noise=0.3),
        tasks.digits_rows(key=key, noise=0.3, examples=599),
    )
    # 57504 draws: the sample deviation is within 4 standard errors of its own
    deviation = np.std(task.inputs - task.targets)
    assert abs(deviation / 0.3 - 1) < 4 / np.sqrt(2 * task.inputs.size)
    np.testing.assert_array_equal(some.inputs, task.inputs[::3])
    np.testing.assert_array_equal(some.targets, task.targets[::3])
    clean = tasks.digits_rows(key=key, noise=0.0, examples=5)
    np.testing.assert_array_equal(clean.inputs, clean.targets)


@pytest.mark.parametrize("make", [tasks.diabetes, lambda: tasks.digits_rows(key=jax.random.key(0))])
def test_without_scikit_learn_the_error_names_the_extra(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: tasks.teacher_student(key=key, kq=np.ones(1), vo=np.ones(2)), "one shape"),
        (lambda key: tasks.teacher_student(key=key, tokens=1), "tokens = 1"),
        (lambda key: tasks.teacher_student(key=key, examples=0), "examples = 0"),
        (lambda key: tasks.digits_rows(key=key, examples=1798), "from 1 to 1797"),
        (lambda key: tasks.digits_rows(key=key, components=9), "from 1 to 8"),
        (lambda key: tasks.digits_rows(key=key, noise=-1.0), "standard deviation"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "tau1", "order"),
    [
        (tasks.teacher_student, 2.0, "vo0 kq0 vo1 kq1 kq2 vo2"),
        (
            lambda *, key: tasks.digits_rows(key=key, examples=200),
            2.5,
            "vo2 vo0 kq2 kq0 vo1 kq1 vo3 kq3",
        ),
    ],
)
def test_the_student_passes_the_saddles_one_weight_at_a_time(make, tau1, order):
    task = make(key=jax.random.key(0))
    model = head(-74.0, task.inputs.shape[-1])
    traj = gflow.simulate(model, task.objective, tau1=tau1, rtol=1e-6, error_bars=False)
    stages = traj.stages()
    assert [[f"{name}{i}" for name, (_, i) in s.activated] for s in stages] == [
        [switch] for switch in order.split()
    ]
    assert not any(s.deactivated for s in stages)
    losses = np.array([traj.loss[0], *(s.loss for s in stages)])
    assert np.min(-np.diff(losses)) > 0.02 * losses[0]
