"""The pages run as printed, what they show is right, and the site has all of them."""

import re
import shlex
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gflow
from gflow import _cli as cli
from theory.reproduce._registry import SHIPPED

DOCS = Path(__file__).parents[2] / "docs"
TARGET = np.array([1.0, 0.5])


def ran(page):
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    for block in blocks:
        assert len(block.strip().splitlines()) <= 30
        exec(compile(block, page, "exec"), names)
    return names


def test_a_parameter(capsys):
    names = ran("extend/a_parameter.md")
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
    names = ran("extend/an_observable.md")
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
    names = ran("extend/a_solver.md")
    run = names["run"]
    assert "Fehlberg" in run.method
    tight = gflow.simulate({"w": names["weight"]}, names["loss"], tau1=3.0, rtol=1e-11)
    for stage, other in zip(run.stages(), tight.stages(), strict=True):
        assert abs(stage.t - other.t) <= stage.error < 1e-4


def test_two_minutes(capsys):
    names = ran("start.md")
    assert [round(s.tau, 9) for s in names["prediction"].stages] == [1.0, 1.5, 3.0]
    # the table is printed as it stands on the page
    printed = capsys.readouterr().out.splitlines()
    (shown,) = re.findall(r"prints\n\n```\n(.*?)```", (DOCS / "start.md").read_text(), re.DOTALL)
    assert (printed[0], printed[-1]) == (shown.splitlines()[0], shown.splitlines()[-1])
    for line, other in zip(printed[3:6], shown.splitlines()[3:6], strict=True):
        # but for ±, z and the loss at rest, which are what rounding leaves
        got, page = (np.array(x.split())[[0, 1, 2, 3, 6, 7, 8, -1]] for x in (line, other))
        assert list(got) == list(page)


def test_how_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ran("how_to.md")
    assert names["comparison"].passed
    assert len(names["later"].stages()) == len(names["run"].stages()) == 2
    assert "Rodas5P" in names["other"].method
    run, other = (names[n].final.read.value for n in ("run", "other"))
    np.testing.assert_allclose(other, run, rtol=1e-6, atol=1e-15)
    assert list(np.round(other, 3)) == [2.0, 0.0, -1.0]
    assert names["again"].loss[-1] == names["run"].loss[-1]


def test_sharp_bits():
    ran("sharp_bits.md")


PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_what_pages_name_exists(page):
    """Commands are those of the command line, links and figures those of the folder."""
    text = (DOCS / page).read_text()
    verbs = "reproduce|report|sweep|new|doctor|list"
    for line in re.findall(rf"^`?(gflow (?:{verbs})[^`\n]*)", text, re.MULTILINE):
        arguments = cli._parser().parse_args(shlex.split(line.removesuffix(" &"))[1:])
        shipped = [n for n in getattr(arguments, "names", []) if not n.endswith(".py")]
        assert set(shipped) <= set(SHIPPED)
    for label, target in re.findall(r"\[([^\]]*)\]\(([^)#]+)\)", text):
        assert label
        assert target.startswith("https://") or (DOCS / page).parent.joinpath(target).is_file()


def test_the_site_has_every_page_and_the_gallery_every_figure():
    written = (DOCS.parent / "mkdocs.yml").read_text()
    assert set(re.findall(r"[\w/]+\.md", written)) == set(PAGES)
    shown = re.findall(r"!\[[^\]]+\]\(figures/(\w+\.png)\)", (DOCS / "gallery.md").read_text())
    assert sorted(shown) == sorted(path.name for path in (DOCS / "figures").glob("*.png"))
