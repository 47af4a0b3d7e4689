"""The pages on extending gflow run as printed, and what they show is right."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gflow

DOCS = Path(__file__).parents[2] / "docs" / "extend"
TARGET = np.array([1.0, 0.5])


def ran(page):
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    for block in blocks:
        assert len(block.strip().splitlines()) <= 30
        exec(compile(block, page, "exec"), names)
    return names


def test_a_parameter(capsys):
    names = ran("a_parameter.md")
    first = gflow.simulate(
        {"w": names["Cubed"](jnp.array([0.3, 0.2]))}, names["loss"], t1=5.0, error_bars=False
    )
    cubed = solve_ivp(
        lambda t, u: 3 * u**2 * (TARGET - u**3), (0, 5.0), [0.3, 0.2], rtol=1e-11, atol=1e-13
    )
    np.testing.assert_allclose(first.final["w"].u, cubed.y[:, -1], rtol=1e-7)
    exact = TARGET + (np.array([1e-6, 1e-3]) - TARGET) * np.exp(-20.0)  # w' = T − w
    np.testing.assert_allclose(names["run"].final["w"].value, exact, rtol=1e-7)
    assert "a condition was met: the loss came down to 1e-06" in capsys.readouterr().out


def test_an_observable(capsys):
    names = ran("an_observable.md")
    run, half = names["run"], names["half"]
    assert "second rose to 0.25" in capsys.readouterr().out
    weight = run.final["w"].value
    assert weight[1] == pytest.approx(0.25, rel=1e-9)
    assert run.observables["spread"][-1] == pytest.approx(
        float(jnp.sum(weight) ** 2 / jnp.sum(weight**2)), rel=1e-12
    )
    # w' = 2w(T − w) from ψ₀ = s₀²/4: half of T when e^{2Tt} = T/ψ₀ − 1
    size = 2.0 * names["weight"].log_s - np.log(4.0)
    exact = (np.log([1.0, 0.5]) - size) / (2.0 * np.array([1.0, 0.5]))
    assert half.t == pytest.approx(float(exact[0]), rel=1e-7)
    assert run.t[-1] == pytest.approx(float(exact[1]), rel=1e-7)
    assert abs(half.t - float(exact[0])) <= half.error + 1e-11 * half.t
    assert len(run.checkpoints) < len(run.t)


def test_a_solver():
    names = ran("a_solver.md")
    run = names["run"]
    assert "Fehlberg" in run.method
    tight = gflow.simulate({"w": names["weight"]}, names["loss"], tau1=3.0, rtol=1e-11)
    for stage, other in zip(run.stages(), tight.stages(), strict=True):
        assert abs(stage.t - other.t) <= stage.error < 1e-4
