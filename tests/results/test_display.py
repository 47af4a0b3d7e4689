"""What results show of themselves: short, escaped, and never a failure of its own."""

import html.parser

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from staged_runs import model, objective, run

import gflow
import theory
from gflow.internal import Summary, Table, power_of_ten, span

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def prediction():
    return theory.gradual_rank.predict(model(30), objective())


@pytest.fixture(scope="module")
def shown(prediction):
    traj = run(30)
    return {
        "trajectory": traj,
        "stage of a run": traj.stages()[0],
        "prediction": prediction,
        "stage": prediction.stages[1],
        "start": prediction.start,
        "finite": prediction.at(log10_alpha=-30),
        "comparison": theory.compare(traj, prediction),
        "aligned": gflow.align_stages([traj]),
        "leaf": model(30).weight,
    }


class Reader(html.parser.HTMLParser):
    """The tags that are open, and all text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_summary_is_short(shown):
    for name, one in shown.items():
        assert len(repr(one).splitlines()) <= 16, name
        assert len(repr(one)) < 3000, name
        assert "array(" not in repr(one), name


def test_the_html_says_what_the_text_says(shown):
    for name, one in shown.items():
        page = Reader(one._repr_html_())
        assert page.open == [], name
        assert "color" not in one._repr_html_()
        for cell in page.text:
            if name not in ("stage of a run", "stage", "start"):  # these print on one line
                assert " ".join(cell.split()) in " ".join(repr(one).split()), (name, cell)


def test_what_a_run_shows_is_right(shown):
    text = repr(shown["trajectory"])
    assert "α = 1e-30" in text
    assert f"{run(30).loss[-1]:.6g}" in text
    row = next(line for line in text.splitlines() if line.startswith("weight"))
    assert row.split()[:3] == ["weight", "Hadamard", "4"]
    assert float(row.split()[-1]) == pytest.approx(10 / 7, rel=1e-2)

    start = model(400, ((2.0,) * 4, (1.0,) * 4))
    below = repr(gflow.simulate(start, objective(), tau1=0.5, error_bars=False))
    row = next(line for line in below.splitlines() if line.startswith("weight"))
    largest = -800.0 + np.log10(0.75)  # (s² − d²)/4, below the range of floats
    assert float(row.split()[3].removeprefix("10^")) == pytest.approx(largest, abs=1e-5)


def test_what_a_prediction_shows_is_right(shown, prediction):
    rows = [x.split() for x in repr(prediction).splitlines()[-3:]]
    for row, stage in zip(rows, prediction.stages, strict=True):
        assert float(row[0]) == pytest.approx(stage.tau, abs=1e-8)
        assert float(row[1]) == pytest.approx(stage.offset, abs=1e-6)
        assert row[-1] in stage.label
    tau = [float(x.split()[0]) for x in repr(shown["finite"]).splitlines()[-3:]]
    np.testing.assert_allclose(tau, prediction.at(log10_alpha=-30).tau, atol=1e-8)


def test_markup_is_escaped():
    page = Summary("<b>x</b>", [("a&b", "<i>")], [Table(["<h>"], [['"q" <script>']])], ["<n>"])
    assert Reader(page.html()).text == ["<b>x</b>", "a&b", "<i>", "<h>", '"q" <script>', "<n>"]
    assert "<script>" not in page.html()


def test_a_long_table_is_cut_and_str_is_whole():
    long = Summary("t", [], [Table(["i"], [[str(i)] for i in range(100)])], ["n"] * 100)
    lines = long.text(24).splitlines()
    assert len(lines) == 1 + 2 + 25 + 24
    assert lines[3] == "0"
    assert lines[27] == "99"
    assert "77 more lines" in lines[-1]
    assert len(long.text().splitlines()) == 203


@pytest.mark.parametrize(
    ("log", "text"),
    [(0.0, "1"), (-230.2585092994046, "1e-100"), (-np.inf, "0"), (np.nan, "unknown"),
     (-2302585.092994046, "10^-1000000")],
)  # fmt: skip
def test_sizes_are_powers_of_ten(log, text):
    assert power_of_ten(log) == text
    assert span(np.array([log])) == text


LEAVES = {
    "Hadamard": gflow.Hadamard.small((2, 3), log10_alpha=-400, key=KEY),
    "Factored": gflow.Factored.small((4, 3), 2, alpha=1e-5, key=KEY),
    "Symmetric": gflow.Symmetric.small((3, 3), 2, alpha=1e-5, key=KEY),
    "Product": gflow.Product(jnp.ones((2, 3)), jnp.ones((3, 2))),
    "Scaled": gflow.Scaled(jnp.ones((2, 3)), -200.0, units="heads"),
    "Frozen": gflow.Frozen(jnp.zeros(3)),
}


@pytest.mark.parametrize("kind", LEAVES)
def test_a_leaf_is_one_line_also_in_a_model(kind):
    leaf = LEAVES[kind]
    assert repr(leaf).startswith(f"{kind}(shape ")
    assert "\n" not in repr(leaf)
    assert repr(leaf) in repr(eqx.nn.Lambda(leaf)) + repr(gflow.models.DiagonalLinear(leaf))
    assert Reader(leaf._repr_html_()).open == []


@pytest.mark.parametrize("kind", LEAVES)
def test_a_leaf_without_its_numbers_shows_its_fields(kind):
    """Traced, abstract, filtered, stacked, or in the hands of an optimiser."""
    leaf = LEAVES[kind]
    seen = []
    jax.eval_shape(lambda x: seen.append(repr(x)), leaf)
    filtered = eqx.filter(leaf, eqx.is_inexact_array)
    assert all(text.startswith(f"{kind}(") for text in [*seen, repr(filtered)])
    assert repr(jax.eval_shape(lambda: leaf)).startswith(kind)
    assert Reader(filtered._repr_html_()).open == []
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), leaf)
    assert repr(stacked).startswith(f"{kind}(")
    if kind in ("Hadamard", "Factored"):
        assert repr(stacked).startswith(f"{kind}(stack of 2 (first shown)")


def test_a_leaf_of_a_user_shows_its_value():
    class Cubed(gflow.Parameter):
        u: jax.Array

        @property
        def value(self):
            return self.u**3

    assert repr(Cubed(jnp.array([0.1, 2.0]))) == "Cubed(shape (2,), |θ| 0.001 … 8)"
    assert "Cubed(u='a mistake')" in repr(Cubed("a mistake"))


def test_tab_completion_of_a_run_offers_what_is_documented():
    offered = [name for name in dir(run(30)) if not name.startswith("_")]
    assert {"t", "tau", "loss", "final", "stages", "save", "status"} <= set(offered)
    assert not {"resolver", "whole", "rows_after", "from_records", "own_records"} & set(offered)
