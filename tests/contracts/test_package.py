"""The distribution: its name, its page on an index, its versions, and what importing it costs."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def build():
    """hatch_build.py, with the one class that it takes from hatchling."""
    interface = types.ModuleType("interface")
    interface.MetadataHookInterface = object  # pyright: ignore[reportAttributeAccessIssue]
    names = ["hatchling", "hatchling.metadata", "hatchling.metadata.plugin"]
    stand_ins = {n: types.ModuleType(n) for n in names}
    stand_ins["hatchling.metadata.plugin.interface"] = interface
    before = {n: sys.modules.get(n) for n in stand_ins}
    sys.modules.update(stand_ins)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, old in before.items():
        if old is None:
            del sys.modules[name]
        else:
            sys.modules[name] = old
    return module


def test_the_page_of_an_index_has_no_relative_links(build):
    text = (ROOT / "README.md").read_text()
    links = re.compile(r"\]\((?!https?://|#)")
    assert links.search(text)
    for repository in ("", "https://example.org/gflow"):
        page = build.index_page(text, repository, "1.2.3")
        assert not links.search(page)
        assert "arxiv.org/abs/2306.07042" in page
    whole = build.index_page("![a](b/c.png) [d](e.md) [f](https://g.h)", "https://x.y/z", "1")
    assert whole == (
        "![a](https://x.y/z/raw/v1/b/c.png) [d](https://x.y/z/blob/v1/e.md) [f](https://g.h)"
    )
    assert build.index_page("![a](b.png)[d](e.md)", "", "1") == "d"
    assert build.urls("") == {}
    assert all(url.startswith("https://x.y/z") for url in build.urls("https://x.y/z").values())


def test_nobody_is_told_to_install_another_package():
    assert PROJECT["project"]["name"] == "gflow-theory"
    pattern = re.compile(r"(pip|uv|conda) (pip )?(install|add) [\"']?gflow(?!-theory)\b")
    assert pattern.search("pip install gflow")
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.py")]
    texts += [*ROOT.glob("gflow/**/*.py"), *ROOT.glob("theory/**/*.py")]
    assert [path for path in texts if pattern.search(path.read_text())] == []


def test_every_dependency_has_a_measured_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    measured = {_name(line) for line in lines if line and not line.startswith("#")}
    groups = PROJECT["dependency-groups"]
    asked = [*PROJECT["project"]["dependencies"], *groups["test"], *groups["dev"]]
    names = {_name(x) for x in asked if isinstance(x, str)}
    assert names - measured == set()
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    assert not any(line.startswith(("jax==0.10.2", "jaxlib==0.10.2")) for line in lines)


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_importing_is_cheap():
    """Neither what is slow to import nor what a run does not need."""
    script = (
        "import sys, gflow, theory\n"
        "assert 'jax' not in sys.modules\n"
        "gflow.simulate, gflow.models, theory.compare, theory.gradual_rank.predict\n"
        "slow = {'scipy.signal', 'scipy.stats', 'matplotlib', 'pandas', 'xarray', 'sklearn'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"
