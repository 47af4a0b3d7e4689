"""An experiment from its reference: `module:attribute`, or the path of a file or a folder.

Loading runs code of other people, so it is done in processes of their own. As a program,
`python -m theory.reproduce._load REFERENCE`, this says in JSON what it found or what is wrong;
what the code prints meanwhile goes to standard error.
"""

import importlib
import importlib.util
import json
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from ._experiment import Experiment

#: What a file or a folder calls its experiment.
ATTRIBUTE = "experiment"


class LoadError(ValueError):
    """There is no experiment where one was looked for; the message is for whoever looked."""


def load(reference: str) -> tuple[Experiment, str]:
    """The experiment, and the file that it is written in.

    A file's siblings can be imported by it, as if it ran as a script; `gflow` and `theory` are
    ours all the same. **Raises** LoadError, and whatever the code raises.
    """
    if os.path.isabs(reference):
        module, attribute = _from_path(Path(reference)), ATTRIBUTE
    else:
        name, _, attribute = reference.partition(":")
        module = importlib.import_module(name)
    found: object = module
    for part in (attribute or ATTRIBUTE).split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Experiment):
        what = f"is {found!r}" if found is not None else "is missing"
        raise LoadError(
            f"{attribute or ATTRIBUTE} {what}: it is to be a theory.reproduce.Experiment "
            "(`gflow new my-paper` writes a file that has one)."
        )
    return found, str(module.__file__)


def _from_path(path: Path) -> ModuleType:
    """The module of a file, or the package of a folder, under the name of either."""
    name = re.sub(r"\W", "_", path.stem if path.suffix == ".py" else path.name)
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise LoadError(f"{file} is missing.")
    taken = sys.modules.get(name) or importlib.util.find_spec(name)
    if taken is not None and _origin(taken) != file.resolve():
        raise LoadError(
            f"its name is taken: `import {name}` finds {_origin(taken) or 'a built-in module'}. "
            "Rename the file."
        )
    folder = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
    if spec is None or spec.loader is None:
        raise LoadError("it is not a Python file: its name is to end in .py.")
    sys.path.insert(0, str(path.parent))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _origin(found: object) -> Path | None:
    origin = getattr(found, "origin", None) or getattr(found, "__file__", None)
    return Path(origin).resolve() if origin and os.path.isabs(origin) else None


def described(reference: str) -> dict[str, str]:
    """`name`, `paper`, `summary` and `file` of the experiment, or the `error` in a sentence."""
    try:
        found, file = load(reference)
    except LoadError as error:
        return {"error": str(error)}
    except BaseException as error:
        return {"error": _sentence(error, reference)}
    return {"name": found.name, "paper": found.paper, "summary": found.summary, "file": file}


def _sentence(error: BaseException, reference: str) -> str:
    """What was raised, and the last line on the way there, of the paper's own where it has one."""
    what = " ".join("".join(traceback.format_exception_only(error)).split("\n")[-2].split())
    ours = Path(__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and Path(frame.filename).parent != ours
    ]
    folder = Path(reference).parent if os.path.isabs(reference) else None
    own = [f for f in frames if folder is not None and Path(f.filename).is_relative_to(folder)]
    at = "".join(f" (line {f.lineno} of {Path(f.filename).name})" for f in (own or frames)[-1:])
    if isinstance(error, SyntaxError) and error.filename:
        at = f" (line {error.lineno} of {Path(error.filename).name})"
    return f"{what}{at}"


def main() -> None:
    """Describe the experiment of the argument on what standard output was."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        json.dump(described(sys.argv[1]), out)


if __name__ == "__main__":
    main()
