"""Who may import whom: data flow one way, private modules stay private, nothing goes in circles."""

import ast
import fnmatch

import pytest
import sources
from sources import Import, Module

MODULES = sources.modules()

#: Where `Any` stands in a signature that users read, and why. To be emptied, not filled.
ANY = {
    "gflow._arguments *(value)": "takes what a user wrote, to say what is wrong with it",
    "gflow.objectives.* *(model)": "any callable is a model",
    "gflow.* *(observables)": "names, functions or both, checked with a sentence",
    "gflow._descend *": "Optax has no type for what it takes",
    "gflow._stacking stacked*": "a pytree of axes",
    "gflow.coordinates._column_steps ColumnSteps.inner": "any coordinates of columns",
    "gflow.coordinates._record *": "arrays of JAX or of NumPy",
    "gflow.coordinates._view View.__getattr__*": "raises",
    "gflow.flow._flow *": "states of the solver are pytrees",
    "gflow.integrate.* *": "states of the solver are pytrees",
    "gflow.kinks._treatments Beside.dtype *": "NumPy's and JAX's",
    "gflow.parameters.* *": "the record of a leaf has keys of its own",
    "gflow.plot new_axes *": "Matplotlib without importing it",
    "gflow.results.* *": "records are dictionaries, a trajectory is known by what it has",
}


def crossing(one: Module, other: Import) -> bool:
    return one.name.split(".")[0] != other.module.split(".")[0]


def public() -> list[Module]:
    return [
        m
        for m in MODULES.values()
        if not any(part.startswith("_") for part in m.name.split("."))
        and not m.name.startswith("benchmarks")
    ]


def test_the_modules_are_found():
    assert len(MODULES) > 200
    assert {"gflow", "gflow.flow._flow", "theory.gradual_rank", "benchmarks.report"} <= set(MODULES)


def test_only_public_names_cross_from_one_package_to_another():
    packages = set(sources.PACKAGES)
    for module in MODULES.values():
        for found in module.imports:
            known = found.module.split(".")[0] in packages
            assert not (known and crossing(module, found) and found.private), (module.path, found)


def test_the_simulator_knows_no_paper():
    for module in MODULES.values():
        if module.name.split(".")[0] == "gflow":
            above = [
                i for i in module.imports if i.module.split(".")[0] in ("theory", "benchmarks")
            ]
            assert not above, (module.path, above)


def test_no_module_needs_itself_to_be_loaded():
    """What a module imports comes with the rooms that it lies in, each loaded whole."""
    edges = {n: list(sources.loaded_first(m, MODULES)) for n, m in MODULES.items()}
    assert sum(map(len, edges.values())) > 500
    assert sources.cycle(edges) == []


def test_a_cycle_is_found_and_shown():
    assert sources.cycle({"a": ["b", "c"], "b": ["d"], "c": ["b"], "d": []}) == []
    found = sources.cycle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["e"], "e": ["b"]})
    assert found == ["b", "d", "e", "b"]
    assert sources.cycle({"a": ["a"]}) == ["a", "a"]


@pytest.mark.parametrize(
    ("text", "module", "private"),
    [
        ("from gflow.flow import _flow", "gflow.flow", True),
        ("import gflow._arguments as a", "gflow._arguments", True),
        ("def f():\n    from gflow.flow._flow import Flow", "gflow.flow._flow", True),
        ("from gflow.internal import Flow", "gflow.internal", False),
        ("from gflow import __version__", "gflow", False),
        ("from . import _x", "theory.plot", True),
        ("from ..comparison import compare", "theory.comparison", False),
    ],
)
def test_imports_are_read_as_python_does(text, module, private, tmp_path):
    path = tmp_path / "__init__.py"
    path.write_text(text)
    (found,) = Module("theory.plot", path).imports
    assert (found.module, found.private) == (module, private)
    assert found.at_load == (not text.startswith("def"))


def anys() -> set[str]:
    """Every public annotation with Any in it: the module, and the signature."""
    found = set()
    for module in public():
        for name, (source, node) in sources.exported(module, MODULES).items():
            for label, annotation in sources.annotations(node, name):
                names = [x for x in ast.walk(annotation) if isinstance(x, ast.Name)]
                if "Any" in [x.id for x in names]:
                    found.add(f"{source.name} {label}")
    return found


def test_public_signatures_say_what_they_take():
    unknown = {x for x in anys() if not any(fnmatch.fnmatchcase(x, e) for e in ANY)}
    assert not unknown, sorted(unknown)


def test_the_public_names_are_those_of_the_packages():
    import gflow
    import theory

    for package in (gflow, theory):
        written = sources.exported(MODULES[package.__name__], MODULES)
        assert set(written) <= set(package.__all__)
        for name, (_, node) in written.items():
            assert getattr(package, name).__name__ == node.name
