"""Every paper that is reproduced or predicted from, and every solver, can be cited."""

import ast
import importlib
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import pytest
import sources

import gflow
import theory
from gflow._cite import bibliography
from theory.reproduce._registry import SHIPPED

ROOT = Path(__file__).parents[2]


class Words:
    """A result that rests on what it is told."""

    def __init__(self, *words):
        self.words = list(words)

    def cited(self):
        return self.words


def keys(*words):
    return [reference.key for reference in gflow.cite(Words(*words)).references[1:]]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_paper_that_is_reproduced_is_known(name):
    room = importlib.import_module(f"theory.reproduce.{name.replace('-', '_')}")
    paper = room.experiment.paper
    found = gflow.cite(Words(paper.replace("beyond ", "")))
    assert found.unknown == []
    written = (ROOT / "CITATION.cff").read_text()
    for reference in found.references:
        assert reference.fields["title"] in written, reference


def constants(name: str):
    """The strings called `name` in the modules of theory, without importing them."""
    for module in sources.modules().values():
        for node in module.tree.body if module.name.startswith("theory.") else []:
            match node:
                case ast.Assign(targets=[ast.Name(id=found)], value=ast.Constant(value=str(text))):
                    if found.startswith(name):
                        yield text


def test_what_predictions_name_is_known():
    found = set(constants("SOURCE"))
    assert len(found) > 5
    unknown = {clause for words in found for clause in gflow.cite(Words(words)).unknown}
    assert unknown == {"limit algorithm of saddles of order three and more"}  # of this project


@pytest.mark.parametrize("name", ["Rodas5P", "RKC2", "ROCK4", "Dopri8", "Tsit5"])
def test_every_solver_is_known(name):
    assert hasattr(gflow.solvers, name) or hasattr(diffrax, name)
    assert keys(f"{name} in log coordinates, rtol=1e-08") == [name.lower()]


def test_a_run_and_its_prediction_cite_what_they_rest_on():
    start = {"w": gflow.Hadamard.small(2, alpha=1e-5, key=jax.random.key(0))}
    run = gflow.simulate(start, lambda m: jnp.sum(m["w"].value ** 2), t1=0.1, error_bars=False)
    curve = theory.Curve("loss", lambda t: t, source="Boix-Adsera et al. 2023 (2306.07042)")
    prediction = theory.Prediction.of(curve)
    both = gflow.cite(run, prediction)
    found = [reference.key for reference in both.references]
    assert {"gflow", "jax", "equinox", "diffrax", "rodas5p"} <= set(found)
    assert "boixadsera2023gradual" in found
    assert len(found) == len(set(found))
    assert both.unknown == []
    compared = gflow.cite(theory.Comparison([], run, prediction))
    assert {r.key for r in compared.references} == set(found)
    assert "eprint = {2306.07042}" in compared.bibtex
    assert compared.bibtex.count("{") == compared.bibtex.count("}")
    assert "Boix-Adserà et al. 2023" in str(compared)


def test_papers_are_known_by_number_or_by_author_and_year():
    assert keys("Domine et al. 2024") == ["domine2024lazy"]
    assert keys("2410.23819 (Kobayashi, Akram, von Oswald 2024)") == ["kobayashi2024weight"]
    assert keys("Saxe et al. 2013; Braun et al. 2022") == ["braun2022exact"]  # no such year
    assert keys("Zhang et al. 2025, arXiv 2501.16265") == ["zhang2025training"]
    assert keys("Smith 2030 (3001.12345)") == ["arxiv3001.12345"]
    assert gflow.cite(Words("eq. 4 of my notes")).unknown == ["eq. 4 of my notes"]


def test_the_bibliography_is_whole():
    text = (ROOT / "gflow" / "references.bib").read_text()
    known = bibliography()
    assert len(known) == text.count("\n@") + 1
    for reference in known.values():
        assert {"title", "author", "year"} <= set(reference.fields), reference.key
    numbers = [r.fields["eprint"] for r in known.values() if "eprint" in r.fields]
    assert len(numbers) == len(set(numbers))
