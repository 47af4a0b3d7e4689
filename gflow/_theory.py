"""Where `theory`, which lies beside `gflow`, is imported from.

A `theory.py` of the user's comes first on the import path wherever it lies beside a script or in
the working folder of a notebook.
"""

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

OURS = Path(__file__).resolve().parents[1] / "theory" / "__init__.py"


class Found(NamedTuple):
    """What `import theory` finds (None: nothing), and what is wrong with it, and what to do."""

    path: Path | None
    fault: str | None


def find_theory() -> Found:
    """Nothing is imported for it."""
    try:
        spec = importlib.util.find_spec("theory")
    except (ImportError, ValueError):  # imported already, by something that is not a file
        spec = None
    origin = spec.origin if spec else getattr(sys.modules.get("theory"), "__file__", None)
    if origin is None:
        return Found(
            None,
            "`import theory` finds nothing: gflow's own package of that name, which belongs at "
            f"{OURS.parent}, is missing. Install gflow again.",
        )
    path = Path(origin).resolve()
    if path == OURS:
        return Found(path, None)
    return Found(
        path,
        f"`import theory` finds {path}, which is not gflow's own: that one is {OURS}. Rename the "
        "former, or work in a folder, and with a PYTHONPATH, that do not lead to it.",
    )
