"""What units are refused for, and where they end without success."""

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from small_heads import Heads, drawn, heads, loss

import gflow
from gflow.flow._build import build_flow
from gflow.flow._order import high_order


class Layers(eqx.Module):
    """W = A₃A₂A₁ with one unit a layer, in which four modes hide."""

    layers: list[gflow.Scaled]

    @classmethod
    def small(cls, epsilon):
        rng = np.random.default_rng(0)
        matrices = [np.eye(4) + 0.1 * rng.normal(size=(4, 4)) for _ in range(3)]
        scale = float(np.log(epsilon))
        return cls([gflow.Scaled(x[None], scale, units=f"{i}") for i, x in enumerate(matrices)])


def layers_loss(model):
    a, b, c = (x.value[0] for x in model.layers)
    return 0.5 * jnp.sum((c @ b @ a - jnp.diag(jnp.array([3.0, 2.0, 1.5, 1.0]))) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("ends", [{}, {"t1": 1e22}])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-20])
def test_a_mode_hidden_in_a_live_unit_is_no_success(epsilon, ends):
    # dormant modes in a live array are lost to rounding: the loss of the first plateau, for ever
    with pytest.warns(UserWarning, match="gflow.simulate"):
        run = gflow.simulate(Layers.small(epsilon), layers_loss, rtol=1e-6, **ends)
    assert run.status in (gflow.Status.saddle, gflow.Status.risen)
    assert run.loss[-1] == pytest.approx(0.5 * 7.25, rel=1e-6)
    assert len(run.stages()) == 1


@pytest.mark.slow
def test_where_nothing_is_lost_layers_are_units_as_well():
    run = gflow.simulate(Layers.small(1e-3), layers_loss, rtol=1e-6)
    assert run.status is gflow.Status.converged
    assert run.loss[-1] < 1e-20
    raw = gflow.simulate(Layers.small(1e-3), layers_loss, t1=1200.0, solver=diffrax.Dopri8())
    for found, stage in zip(run.stages(), raw.stages(), strict=True):
        level = gflow.stop.loss_below(found.level[1])
        # errors are of the size of the whole unit, which a dormant mode in it feels
        assert abs(found.t - raw.crossing(level).t) <= found.error < 1e-3 * found.t
        assert stage.loss == pytest.approx(found.loss, abs=1e-5)


@pytest.mark.slow
def test_a_run_without_units_says_what_stalls_it():
    with pytest.warns(UserWarning, match="near a saddle of order 3 .* units="):
        run = gflow.simulate(heads(1e-20, units=None), loss, max_steps=1000)
    assert run.status is gflow.Status.max_steps
    assert "units=" in run.cause


@pytest.mark.parametrize(("factors", "order"), [(2, None), (3, 3), (4, 4), (6, 6)])
def test_the_order_is_that_of_the_forces(factors, order):
    flow = build_flow({"w": np.full(factors, 1e-8)}, lambda m: 1.0 - jnp.prod(m["w"]))
    found = high_order(flow)
    assert found is None if order is None else f"a saddle of order {order} " in found
    ordinary = build_flow({"w": np.full(factors, 0.1)}, lambda m: 1.0 - jnp.prod(m["w"]))
    assert high_order(ordinary) is None


def bad(which):
    v, k, q = (gflow.Scaled(x, -20.0, units="heads") for x in drawn())
    zero = np.where(np.arange(5) == 2, 0.0, 1.0)
    return {
        "some": Heads(v, k, gflow.Scaled(q.array, -20.0)),
        "zero": Heads(
            gflow.Scaled(v.array * zero, -20.0, units="heads"),
            *(gflow.Scaled(x.array * zero[:, None], -20.0, units="heads") for x in (k, q)),
        ),
        "counts": {"a": v, "b": gflow.Scaled(np.ones(4), 0.0, units="heads")},
        "underflow": heads(1e-150),
    }[which]


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("some", "'v', 'k' have units, and 'q' has not"),
        ("zero", "Unit 2 of 'heads' is zero"),
        ("counts", "has 4 units of the label 'heads', and another leaf has 5"),
        ("underflow", "underflows"),
    ],
)
def test_the_sentence_says_what_is_wrong(which, sentence):
    model = bad(which)
    of = loss if which != "counts" else lambda m: jnp.sum(m["a"].value) * jnp.sum(m["b"].value)
    with pytest.raises(ValueError, match=sentence):
        gflow.simulate(model, of, t1=1.0)


def test_decay_and_axes_that_an_array_does_not_have():
    with pytest.raises(ValueError, match="followed without decay"):
        gflow.simulate(heads(1e-3), loss, t1=1.0, decay=0.1)
    with pytest.raises(ValueError, match="counted by the"):
        gflow.Scaled(np.ones((2, 3)), 0.0, units="heads", unit_axes=3)
