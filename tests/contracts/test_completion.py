"""What tab completion offers: the names that a module is for, and not what it is written with."""

import importlib
import inspect

import pytest
import sources

PUBLIC = [
    name
    for name in sources.modules()
    if not any(part.startswith("_") for part in name.split("."))
    and name.split(".")[0] in ("gflow", "theory")
    and name != "gflow.internal"
    and not name.startswith("theory.reproduce.")
]


def foreign(module) -> list[str]:
    """Names offered that belong to another package, or to no module that users see."""
    # the type checks of this suite import jaxtyping into every module
    offered = [n for n in dir(module) if not n.startswith("_") and n != "jaxtyping"]
    found = []
    for name in offered:
        value = getattr(module, name)
        if inspect.ismodule(value):
            home = value.__name__.rpartition(".")[0]
            found += [] if home == module.__name__ else [name]
        elif inspect.isfunction(value) or inspect.isclass(value):
            found += [] if value.__module__.startswith(("gflow", "theory")) else [name]
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_offers_its_own_names(name):
    module = importlib.import_module(name)
    assert foreign(module) == []
    if not hasattr(module, "__path__"):
        assert not {"np", "jnp", "math", "Any", "number", "real_array"} & set(dir(module))
        assert all(hasattr(module, n) for n in dir(module))


def test_a_foreign_name_is_found():
    assert "ast" in foreign(sources)
    assert "dataclass" in foreign(sources)
