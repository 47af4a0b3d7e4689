"""A run continued with its memory is the run that did not stop, bit for bit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from terminals import standard_error

import gflow
from gflow.objectives import SquaredLoss

KEY = jax.random.key(4)


class Model(eqx.Module):
    h: gflow.Hadamard
    f: gflow.Factored
    b: jax.Array

    def __call__(self, x):
        return self.f.value @ (self.h.value * x) + self.b


def model():
    one, two = jax.random.split(jax.random.key(0))
    h = gflow.Hadamard.small(3, log_alpha=-1.0, key=one)
    return Model(h, gflow.Factored.small((2, 3), 2, log_alpha=-1.0, key=two), jnp.zeros(2))


def objective():
    x = np.random.default_rng(2).standard_normal((10, 3))
    return SquaredLoss(x, x[:, :2] * np.array([1.0, -0.5]))


def warm(step):
    return 0.02 + 0.001 * step


RULES = {
    "gradient descent": dict(learning_rate=0.1),
    "schedule and decay": dict(learning_rate=warm, decay=lambda t: 0.1 * jnp.exp(-t)),
    "by leaf": dict(learning_rate={"h": 0.1, "f": warm, "b": 0.03}),
    "adam": dict(optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 60))),
    "momentum": dict(optimizer=optax.sgd(0.02, momentum=0.9)),
    "injected": dict(optimizer=optax.inject_hyperparams(optax.adamw)(learning_rate=warm)),
    "noise": dict(optimizer=optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(9)),
                                        optax.scale(-0.05))),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_memory_schedules_batches_and_time_go_on(rule, tmp_path):
    settings = dict(batch=3, key=KEY, save_every=4, **rule)
    whole = gflow.descend(model(), objective(), steps=60, **settings)
    half = gflow.descend(model(), objective(), steps=24, **settings)
    half.save(tmp_path / "half.nc")
    like = model() if "learning_rate" in rule else gflow.to_factors(model())
    loaded = gflow.Trajectory.load(tmp_path / "half.nc", like=like)
    for before in (half, loaded):
        rest = gflow.descend(before.final, objective(), steps=36, resume=before, **settings)
        np.testing.assert_array_equal(rest.t, whole.t[6:])
        np.testing.assert_array_equal(rest.loss, whole.loss[6:])
        for name in ("h", "f", "b"):
            for key, array in rest.leaves[name].items():
                np.testing.assert_array_equal(array, whole.leaves[name][key][6:])
        for one, two in zip(rest.training.arrays, whole.training.arrays, strict=True):
            np.testing.assert_array_equal(one, two)
        assert rest.statistics["steps"] == 36
        assert rest.training.made == 60
    # without the memory it is another run
    if "optimizer" in rule:
        anew = gflow.descend(half.final, objective(), steps=36, **settings)
        assert np.any(anew.loss[1:] != whole.loss[7:])


def test_three_parts_and_the_model_that_it_began_with():
    settings = dict(optimizer=optax.adam(0.05))
    whole = gflow.descend(model(), objective(), steps=30, **settings)
    part = gflow.descend(model(), objective(), steps=10, **settings)
    # `model` says what the run is of; where it stands is known from the run
    for where in (model(), None):
        where = part.final if where is None else where
        part = gflow.descend(where, objective(), steps=10, resume=part, **settings)
    np.testing.assert_array_equal(part.loss[-1], whole.loss[-1])
    np.testing.assert_array_equal(part.t[-1], whole.t[-1])


def test_another_rate_goes_on_from_the_time_that_was():
    first = gflow.descend(model(), objective(), learning_rate=0.1, steps=20)
    second = gflow.descend(first.final, objective(), learning_rate=0.2, steps=10, resume=first)
    np.testing.assert_allclose(second.t, 2.0 + 0.2 * np.arange(11), rtol=1e-15)
    falling = gflow.descend(second.final, objective(), learning_rate=warm, steps=3, resume=second)
    np.testing.assert_allclose(falling.t, 4.0 + np.cumsum([0.0, 0.05, 0.051, 0.052]), rtol=1e-14)
    last = gflow.descend(falling.final, objective(), learning_rate=0.1, steps=2, resume=falling)
    np.testing.assert_allclose(last.t, falling.t[-1] + 0.1 * np.arange(3), rtol=1e-14)


def test_what_cannot_go_on_says_so():
    adam = gflow.descend(model(), objective(), optimizer=optax.adam(0.05), steps=3)
    with pytest.raises(ValueError, match=r"trained by Optax adam.*this one is by gradient descent"):
        gflow.descend(adam.final, objective(), learning_rate=0.1, steps=3, resume=adam)
    with pytest.raises(ValueError, match=r"trained by Optax adam.*by Optax sgd"):
        gflow.descend(adam.final, objective(), optimizer=optax.sgd(0.1), steps=3, resume=adam)
    moved = eqx.tree_at(lambda m: m.b, adam.final, jnp.ones(2))
    with pytest.raises(ValueError, match="'b' of the model is neither where the run"):
        gflow.descend(moved, objective(), optimizer=optax.adam(0.05), steps=3, resume=adam)
    with pytest.raises(ValueError, match="The model trains"):
        gflow.descend({"a": jnp.ones(1)}, lambda m: jnp.sum(m["a"] ** 2),
                      optimizer=optax.adam(0.05), steps=3, resume=adam)  # fmt: skip
    flow = gflow.simulate(model(), objective(), t1=1.0, error_bars=False)
    with pytest.raises(ValueError, match=r"goes on with a run of gflow\.descend"):
        gflow.descend(flow.final, objective(), learning_rate=0.1, steps=3, resume=flow)
    with pytest.raises(ValueError, match="resume is 3"):
        gflow.descend(model(), objective(), learning_rate=0.1, steps=3, resume=3)


# --- the end --------------------------------------------------------------------------


def cliff(m):
    """Falls with slope −1 to x = 0.95, and is no number beyond."""
    return -m["x"] + 0.0 * jnp.sqrt(0.95 - m["x"])


@pytest.mark.parametrize("save_every", [1, 3, 100])
@pytest.mark.parametrize("how", [dict(learning_rate=0.1), dict(optimizer=optax.sgd(0.1))])
def test_a_run_that_breaks_keeps_the_last_good_step(save_every, how):
    start = {"x": jnp.zeros(())}
    with pytest.warns(UserWarning, match="gflow.descend diverged"):
        traj = gflow.descend(start, cliff, steps=50, save_every=save_every, **how)
    assert not traj.successful
    assert traj.statistics["steps"] == 9
    np.testing.assert_allclose(traj.final["x"], 0.9, rtol=1e-14)
    np.testing.assert_allclose(traj.t[-1], 0.9, rtol=1e-14)
    assert np.all(np.isfinite(traj.loss))


def test_a_run_that_breaks_at_once_keeps_its_start():
    with pytest.warns(UserWarning, match="gflow.descend diverged"):
        traj = gflow.descend({"x": jnp.zeros(())}, cliff, learning_rate=2.0, steps=5)
    assert traj.statistics["steps"] == 0
    np.testing.assert_array_equal(traj.t, [0.0])
    np.testing.assert_array_equal(traj.final["x"], 0.0)


def test_progress_is_told_and_an_interrupted_run_goes_on(monkeypatch):
    from gflow.training._loop import Run

    settings = dict(learning_rate=0.01, save_every=1)
    with monkeypatch.context() as patch:
        said = standard_error(patch)
        whole = gflow.descend(model(), objective(), steps=200, progress=True, **settings)
    assert "200/200 steps" in said.getvalue()
    assert f"loss={whole.loss[-1]:.6g}" in said.getvalue()
    advance = Run._advance

    def interrupted(self):
        if self.made >= 128:
            raise KeyboardInterrupt
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_advance", interrupted)
        with pytest.warns(UserWarning, match="interrupted by the user"):
            part = gflow.descend(model(), objective(), steps=200, **settings)
    assert part.statistics["steps"] == 128
    rest = gflow.descend(part.final, objective(), steps=72, resume=part, **settings)
    np.testing.assert_array_equal(rest.loss, whole.loss[128:])
