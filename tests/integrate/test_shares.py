"""A batch shared out among cores: the same members, whoever advances them."""

import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.integrate import _shares

KEYS = jax.random.split(jax.random.key(0), 9)
INPUTS = jax.random.normal(jax.random.key(1), (6, 3))
LOSS = gflow.objectives.SquaredLoss(INPUTS, INPUTS @ jnp.array([2.0, -1.0, 0.5]))
ENDS = np.linspace(1.0, 3.0, len(KEYS))


def start(key):
    return gflow.models.DiagonalLinear(gflow.Hadamard.small(3, log_alpha=-20.0, key=key))


MODELS = eqx.filter_vmap(start)(KEYS)


def batch(**options):
    return gflow.simulate_batch(MODELS, LOSS, tau1=ENDS, error_bars=False, **options)


@pytest.fixture
def shared(monkeypatch):
    """Among `cores` cores, with as few members a share as it takes."""

    def among(cores, least=1):
        monkeypatch.setattr(_shares, "_cores", lambda: cores)
        monkeypatch.setattr(_shares, "LEAST", least)

    return among


@pytest.mark.parametrize("cores", [2, 4])
def test_members_are_those_of_one_share(shared, cores):
    shared(1)
    alone = batch()
    shared(cores)
    together = batch(observables={"norm": lambda m: jnp.sum(m.weight.value**2)})
    assert len(together) == len(alone) == len(together.status) == len(KEYS)
    assert together.failed == []
    for one, other, end in zip(alone, together, ENDS, strict=True):
        assert one.t[-1] == other.t[-1] == end * 20.0
        # compiled for another width, sums are taken in another order, and steps follow rounding
        assert other.statistics["accepted"] == pytest.approx(one.statistics["accepted"], rel=0.05)
        ends = (np.asarray(run.final.weight.value) for run in (one, other))
        np.testing.assert_allclose(*ends, rtol=0, atol=1e-7)
        assert other.observables["norm"].shape == other.t.shape
        assert one.log_alpha == other.log_alpha
    weights = np.array([run.final.weight.value for run in together])
    assert len(np.unique(weights.round(7), axis=0)) == len(KEYS)  # no member is another's


def test_few_members_are_not_shared_out(shared, monkeypatch):
    made, whole = [], _shares.Rounds.__init__

    def counted(self, *arguments, **options):
        made.append(options["members"])
        whole(self, *arguments, **options)

    monkeypatch.setattr(_shares.Rounds, "__init__", counted)
    shared(4, least=5)
    batch()
    assert made == [9]
    made.clear()
    shared(4, least=3)
    batch()
    assert made == [3, 3, 3]


def test_an_interrupt_in_one_share_ends_all(shared, monkeypatch):
    shared(3)
    batch()
    rounds, lock = [], threading.Lock()
    whole = _shares.Rounds._advance

    def interrupted(self, *arguments):
        with lock:
            rounds.append(self)
            third = len(rounds) == 4
        if third:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(_shares.Rounds, "_advance", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        found = batch(rtol=1e-12)
    assert any(status is gflow.Status.interrupted for status in found.status)
    assert len(found) == len(KEYS)


def test_an_error_in_one_share_is_raised(shared, monkeypatch):
    shared(3)

    def broken(self, *arguments):
        raise FloatingPointError("in a share")

    monkeypatch.setattr(_shares.Rounds, "_advance", broken)
    with pytest.raises(FloatingPointError, match="in a share"):
        batch()


def test_a_setting_of_this_thread_alone_keeps_it_here(shared, monkeypatch):
    shared(3)
    batch()
    seen, whole = set(), _shares.Rounds.go

    def watched(self, *arguments):
        seen.add(threading.current_thread() is threading.main_thread())
        return whole(self, *arguments)

    monkeypatch.setattr(_shares.Rounds, "go", watched)
    batch()
    assert seen == {True, False}  # the first round, in which everything is compiled, and the rest
    seen.clear()
    with jax.default_matmul_precision("highest"):
        batch()
    assert seen == {True}


def test_progress_counts_all_members(shared, capsys):
    shared(3)
    batch(progress=True)
    assert f"{len(KEYS)} of {len(KEYS)} members ended" in capsys.readouterr().err
