"""`gflow new`: a file with an experiment that runs, to begin a paper with."""

import importlib.util
import keyword
from pathlib import Path

from ._experiment import NAME
from ._registry import Unusable, sources

TEMPLATE = Path(__file__).with_name("_template.py")


def write_template(name: str, folder: Path) -> Path:
    """my_paper.py for the name my-paper, in `folder`; nothing is overwritten.

    **Raises** Unusable for a name that no experiment or no module can have, or that one has, and
    where the file cannot be written.
    """
    if not NAME.fullmatch(name):
        raise Unusable(
            f"{name!r} cannot name an experiment: use lower-case letters, digits and single "
            "hyphens, as in my-paper."
        )
    if taken := sources().get(name):
        origins = "; ".join(one.origin for one in taken)
        raise Unusable(f"An experiment is called {name!r} already ({origins}): take another name.")
    module = name.replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module):
        raise Unusable(f"{module}.py could not be imported: begin the name with another letter.")
    path = folder / f"{module}.py"
    if path.exists():
        raise Unusable(f"{path} exists already; it is left as it is.")
    if importlib.util.find_spec(module) is not None:
        raise Unusable(f"{path} would hide an installed module of that name: take another.")
    text = TEMPLATE.read_text(encoding="utf-8").replace("my-paper", name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("my_paper", module))
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror}.") from None
    return path
