"""What `gflow.simulate` refuses by name, and what it allows where asked for."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kinds import Linear
from two_examples import GAIN, HALF_SUM, INPUTS, TARGETS, small

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss


class TwoLosses(eqx.Module):
    def __call__(self, model):
        return model.weight.value


class Pair(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.value), 1.0


class Root(eqx.Module):
    """√(0·θ²): finite, without a finite gradient."""

    def __call__(self, model):
        return jnp.sqrt(0.0 * jnp.sum(model.weight.value**2))


class NotFinite(eqx.Module):
    def __call__(self, model):
        return jnp.log(-jnp.sum(model.weight.value**2))


class ReadsFactors(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.log_s)


class TwoLeaves(eqx.Module):
    a: gflow.Parameter
    b: gflow.Parameter

    def __call__(self, x):
        return jnp.dot(x, self.a.value + self.b.value)


LEAF = small().weight
HADAMARD = gflow.Hadamard(jnp.array([1.0, 0.5, 0.2, 0.1]), jnp.array([0.5, 0.2, 0.5, 0.2]))


def ran(leaf, time):
    record = {"log_s": np.asarray(leaf.log_s), "log_d": np.asarray(leaf.log_d)}
    return leaf.at_record(record, time)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        # what build_flow checks
        (dict(model=DiagonalLinear(gflow.Frozen(GAIN))), "DiagonalLinear has nothing to train"),
        (dict(model=TwoLeaves(LEAF, LEAF)), "Leaves 'a' and 'b' are the same object.*Tied"),
        (dict(model=Linear(jnp.ones(4, complex))), "Leaf 'weight' is complex"),
        (dict(model=Linear(jnp.ones(4, jnp.float32))), "float32.*jax_enable_x64.*allow_float32"),
        (dict(model=Linear(jnp.array([1, jnp.nan, 1, 1]))), "Leaf 'weight' has NaN"),
        (
            dict(model=DiagonalLinear(gflow.Hadamard(jnp.ones(4), jnp.array([2, 2, -1.0, 2])))),
            r"\|u\| = \|v\| at index \(2,\).*allow_frozen_sign",
        ),
        (dict(decay={"wieght": 0.1}), "decay names leaf 'wieght'.*Did you mean.*'weight'"),
        (dict(decay=-0.1), "decay = -0.1 for every leaf.*≥ 0"),
        (dict(decay={"weight": math.nan}), "decay = nan for weight"),
        (dict(decay=math.inf), "decay = inf"),
        (dict(objective=TwoLosses()), r"scalar loss; it returned shape \(4,\).*average"),
        (dict(objective=Pair()), "scalar loss; it returned <class 'tuple'>"),
        (dict(objective=NotFinite()), "loss at the start is nan.*almost"),
        (dict(objective=Root()), "no finite gradient in .'weight'"),
        # what simulate checks
        (dict(rtol=0.0), "rtol = 0.0: choose"),
        (dict(rtol=1e-16), "rtol = 1e-16: choose.*1.4e-14"),
        (dict(rtol=1.0), "rtol = 1.0: choose"),
        (dict(rtol=math.nan), "rtol = nan: choose"),
        (dict(solver=diffrax.Euler()), "Euler.* has no error estimate.*Rodas5P"),
        (
            dict(model=TwoLeaves(ran(LEAF, 3.0), ran(HADAMARD, 4.0))),
            r"different times \[3.0, 4.0\].*gflow.rescale",
        ),
        (dict(t1=1.0, tau1=1.0), "t1 = 1.0 or tau1 = 1.0, not both"),
        (dict(t1=0.0), "end at t1 = 0.0, but the model stands at t = 0.0"),
        (dict(t1=-1), "end at t1 = -1.0"),
        (dict(t1=math.inf), "end at t1 = inf.*finite"),
        (dict(t1=math.nan), "end at t1 = nan"),
        (dict(t1=3.0, model=DiagonalLinear(ran(LEAF, 3.0))), "the model stands at t = 3.0"),
        (dict(log_alpha=math.nan), "log_alpha = nan must be finite"),
        (dict(save=[1.0, 6.0]), "save contains t = 6.0, outside the run from t = 0.0 to 5.0"),
        (dict(save=[-1.0]), "save contains t = -1.0"),
        (dict(save=math.nan), "save contains t = nan"),
        (
            dict(t1=None, objective=SquaredLoss(INPUTS, 0 * TARGETS), model=Linear(jnp.zeros(4))),
            "The start is stationary.*t1 or tau1",
        ),
        (dict(t1=None, decay={"weight": lambda t: 0.1}), "decay of .* depends on time.*t1 or tau1"),
        (dict(decay={"weight": lambda t: 0.1 - 0.1 * t}), "'weight' is -.* at t = 1.*≥ 0"),
        # what τ needs
        (
            dict(tau1=2.0, model=Linear(jnp.ones(4))),
            "tau1 = 2.0.*no Hadamard or Factored leaf.*Pass",
        ),
        (dict(tau1=2.0, model=DiagonalLinear(HADAMARD)), "'weight'. were built without log_alpha"),
        (
            dict(tau1=2.0, model=TwoLeaves(LEAF, small(-9.0).weight)),
            "disagree on log_alpha .a: -4.6, b: -9",
        ),
        (
            dict(tau1=2.0, model=TwoLeaves(LEAF, HADAMARD)),
            "disagree on log_alpha .a: -4.6, b: unknown",
        ),
        (dict(tau1=2.0, log_alpha=0.5), "log_alpha = 0.5 was given, so α ≥ 1"),
        (dict(tau1=2.0, model=small(0.0)), "log_alpha = 0 on every leaf, so α ≥ 1"),
    ],
)
def test_bad_input_is_named_with_its_remedy(kwargs, message):
    kwargs = {"model": small(), "objective": HALF_SUM, "t1": 5.0, **kwargs}
    if "tau1" in kwargs and kwargs["t1"] == 5.0:
        kwargs["t1"] = None
    model, objective = kwargs.pop("model"), kwargs.pop("objective")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.simulate(model, objective, **kwargs)


def test_an_objective_of_more_than_effective_weights_is_refused():
    with pytest.raises(AttributeError, match=r"only `.value` of a parameter.*not `.log_s`"):
        gflow.simulate(small(), ReadsFactors(), t1=1.0)


def test_tau_and_times_of_a_trajectory():
    run = gflow.simulate(DiagonalLinear(HADAMARD), HALF_SUM, t1=5.0, error_bars=False)
    with pytest.raises(ValueError, match=r"τ = t/log.*built without log_alpha"):
        _ = run.tau
    with pytest.raises(ValueError, match="τ = t/log"):
        run.model(at=1.0)
    with pytest.raises(ValueError, match="either at=τ or t="):
        run.model()
    with pytest.raises(ValueError, match="either at=τ or t="):
        run.model(1.0, t=1.0)
    with pytest.raises(ValueError, match=r"t = 5.5 is outside the run.*0 to 5"):
        run.model(t=5.5)
    given = gflow.simulate(
        DiagonalLinear(HADAMARD), HALF_SUM, tau1=2.0, log_alpha=-3, error_bars=False
    )
    assert given.tau[-1] == 2.0
    assert given.t[-1] == 6.0


def test_a_frozen_sign_is_allowed_where_asked_for():
    model = gflow.models.woodworth(4, log_alpha=-5.0)
    assert np.all(model.weight.value == 0.0)
    equal = DiagonalLinear(gflow.Hadamard(jnp.full(4, 1e-2), jnp.full(4, 1e-2)))
    run = gflow.simulate(equal, HALF_SUM, t1=60.0, error_bars=False, allow_frozen_sign=True)
    assert np.all(run.observables["weight"] > 0)
    assert np.all(np.isneginf(run.leaves["weight"]["log_d"]))


@pytest.mark.parametrize("x64", [True, False])
def test_single_precision_runs_where_asked_for(x64):
    exact = gflow.simulate(small(seed=4), HALF_SUM, t1=40.0, error_bars=False)
    weight = gflow.to_factors(small(seed=4)).weight
    u, v = np.float32(weight.u), np.float32(weight.v)
    with jax.enable_x64(x64):
        inputs, targets = jnp.asarray(np.float32(INPUTS)), jnp.asarray(np.float32(TARGETS))
        model = DiagonalLinear(gflow.Hadamard(jnp.asarray(u), jnp.asarray(v), log_alpha=-4.6))
        run = gflow.simulate(
            model, SquaredLoss(inputs, targets, "half_sum"), t1=40.0, rtol=1e-5,
            allow_float32=True, decay=0.0, error_bars=False,
        )  # fmt: skip
    assert run.observables["weight"].dtype == np.float32
    np.testing.assert_allclose(
        run.observables["weight"][-1], exact.observables["weight"][-1], rtol=0, atol=1e-3
    )
