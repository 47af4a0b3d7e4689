"""Time belongs to the run: a model it hands out stands at the time it was recorded at."""

import gc
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.parameters import _elapsed as elapsed

#: λ(t) is 1 until t = 5 and then 0, so that W' = −λW is W = e^{−min(t, 5)}.
STEEP = 50.0
OPTIONS = dict(rtol=1e-8, error_bars=False)


def pulse(t):
    return 1.0 / (1.0 + jnp.exp((t - 5.0) * STEEP))


def value(model):
    return model["w"].value if isinstance(model["w"], gflow.Parameter) else model["w"]


def no_force(model):
    return 0.0 * jnp.sum(value(model)) + 1.0


def half_square(model):
    return 0.5 * jnp.sum((value(model) - 2.0) ** 2)


def weight(run):
    return run.observables["w"][-1]


@pytest.fixture(scope="module")
def first():
    return {
        "plain": gflow.simulate({"w": jnp.ones(1)}, no_force, t1=6.0, decay=pulse, **OPTIONS),
        "scaled": gflow.simulate(
            {"w": gflow.Scaled(jnp.ones(1), 0.0)}, no_force, t1=6.0, decay=pulse, **OPTIONS
        ),
    }


@pytest.mark.parametrize("kind", ["plain", "scaled"])
@pytest.mark.parametrize("handed", [lambda r: r.final, lambda r: r.model(t=5.75)])
def test_a_run_begins_where_its_model_stands(first, kind, handed):
    run = first[kind]
    rest = gflow.simulate(handed(run), no_force, t1=7.0, decay=pulse, **OPTIONS)
    assert rest.t[0] in (6.0, 5.75)
    assert rest.t[-1] == 7.0
    np.testing.assert_allclose(weight(rest), math.exp(-5.0), rtol=1e-6)  # e^-10 from t = 0


@pytest.mark.parametrize("kind", ["plain", "scaled"])
def test_an_end_before_the_model_is_refused(first, kind):
    with pytest.raises(ValueError, match=r"t1 = 3.*stands at t = 6.*t0=0"):
        gflow.simulate(first[kind].final, no_force, t1=3.0, decay=pulse, **OPTIONS)


def test_what_knows_no_time_is_told(first):
    copied = {"w": np.asarray(first["plain"].final["w"])}
    rest = gflow.simulate(copied, no_force, t0=6.0, t1=7.0, decay=pulse, **OPTIONS)
    assert rest.t[0] == 6.0
    np.testing.assert_allclose(weight(rest), math.exp(-5.0), rtol=1e-6)
    untold = gflow.simulate(copied, no_force, t1=6.0, decay=pulse, **OPTIONS)
    assert untold.t[0] == 0.0
    np.testing.assert_allclose(weight(untold), math.exp(-10.0), rtol=1e-6)
    # and the time given is the one that counts
    anew = gflow.simulate(first["plain"].final, no_force, t0=0, t1=6.0, decay=pulse, **OPTIONS)
    np.testing.assert_allclose(weight(anew), math.exp(-10.0), rtol=1e-6)
    with pytest.raises(ValueError, match="t0 = nan"):
        gflow.simulate(copied, no_force, t0=math.nan, t1=7.0, **OPTIONS)


def test_an_array_computed_of_another_knows_no_time(first):
    final = first["plain"].final
    assert elapsed.recall(final) == {6.0}
    assert elapsed.recall(jax.tree.map(lambda x: 2.0 * x, final)) == set()
    assert elapsed.recall(jax.tree.map(lambda x: x, final)) == {6.0}
    assert elapsed.recall(gflow.rescale(final, -5.0)) == set()
    np.testing.assert_array_equal(gflow.rescale(final, -5.0)["w"], final["w"])


def test_times_are_forgotten_with_their_arrays(first):
    gc.collect()
    before = len(elapsed._times)
    kept = [first["plain"].final for _ in range(5)]
    assert len(elapsed._times) == before + 5
    del kept
    gc.collect()
    assert len(elapsed._times) == before


def test_leaves_of_different_runs_are_told_apart(first):
    parts = {"w": first["plain"].final["w"], "v": first["plain"].model(t=2.0)["w"]}
    with pytest.raises(ValueError, match=r"different times \[2.0, 6.0\].*t0="):
        gflow.simulate(parts, no_force, t1=9.0, **OPTIONS)
    told = gflow.simulate(parts, no_force, t0=6.0, t1=9.0, **OPTIONS)
    assert told.t[0] == 6.0


def test_factors_made_of_a_leaf_stand_at_its_time():
    leaf = gflow.Hadamard(jnp.array([0.3]), jnp.array([0.2]), log_alpha=-1.0)
    run = gflow.simulate({"w": leaf}, half_square, t1=1.5, **OPTIONS)
    factors = gflow.to_factors(run.final)
    rest = gflow.simulate(factors, half_square, t1=2.0, **OPTIONS)
    assert rest.t[0] == 1.5


def test_tau_has_the_origin_of_t():
    plain = gflow.simulate({"w": jnp.ones(1)}, half_square, t1=4.0, log_alpha=-10.0, **OPTIONS)
    rest = gflow.simulate(plain.final, half_square, tau1=0.5, log_alpha=-10.0, **OPTIONS)
    np.testing.assert_allclose(rest.tau[[0, -1]], [0.4, 0.5], rtol=1e-15)
    # w = 2 − e^{−t} of the whole time
    np.testing.assert_allclose(weight(rest), 2.0 - math.exp(-5.0), rtol=1e-7)


def test_a_batch_is_told_its_times_and_hands_them_out(first):
    final = first["plain"].final
    stack = {"w": jnp.stack([final["w"], jnp.exp(-4.0) * jnp.ones(1)])}
    batch = gflow.simulate_batch(stack, no_force, t0=[6.0, 4.0], t1=7.0, decay=pulse, **OPTIONS)
    assert [run.t[0] for run in batch] == [6.0, 4.0]
    for run in batch:
        np.testing.assert_allclose(weight(run), math.exp(-5.0), rtol=1e-6)
        assert elapsed.recall(run.final) == {7.0}
    with pytest.raises(ValueError, match=r"t0 = .*2 members"):
        gflow.simulate_batch(stack, no_force, t0=[1.0, 2.0, 3.0], t1=7.0, **OPTIONS)


def test_steps_of_an_optimiser_are_no_time():
    import optax

    # its last stage is no multiplication by a rate
    rule = optax.chain(optax.scale(-0.1), optax.trace(0.9))
    counted = gflow.descend({"w": jnp.ones(1)}, half_square, optimizer=rule, steps=10)
    assert counted.counts_steps
    assert gflow.simulate(counted.final, half_square, t1=1.0, **OPTIONS).t[0] == 0.0
    timed = gflow.descend({"w": jnp.ones(1)}, half_square, learning_rate=0.1, steps=10)
    assert gflow.simulate(timed.final, half_square, t1=2.0, **OPTIONS).t[0] == pytest.approx(1.0)


def test_a_stage_keeps_its_time_across_a_continued_run():
    eps = 1e-4
    model = {"u": jnp.array(eps), "v": jnp.array(eps)}

    def loss(m):
        return 0.5 * (m["u"] * m["v"] - 1.0) ** 2

    # p = uv with u = v: p' = 2p(1 − p), hence p = ½ where t = ½ log((1 − ε²)/ε²)
    half = 0.5 * math.log((1.0 - eps**2) / eps**2)
    run = gflow.simulate(model, loss, t1=5.0, **OPTIONS)
    rest = gflow.simulate(
        run.final,
        loss,
        t1=15.0,
        observables={"p": lambda m: m["u"] * m["v"]},
        save=[half],
        **OPTIONS,
    )
    assert rest.t[0] == 5.0
    np.testing.assert_allclose(rest.observables["p"][rest.t == half], 0.5, rtol=0, atol=1e-6)
