"""The pages of the API, for `mkdocs build`: a page a public module, from its docstrings.

Which names are public, and where each is written, is read as the tests read it; nothing is
imported, so that the site needs neither JAX nor gflow.
"""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import sources

PACKAGES = ("gflow", "theory")


def pages() -> dict[str, str]:
    """Markdown of every public module that offers something, by its dotted name."""
    known = sources.modules()
    found = {}
    for name, module in sorted(known.items()):
        parts = name.split(".")
        if parts[0] not in PACKAGES or any(part.startswith("_") for part in parts):
            continue
        # neither what is for friends alone, nor the papers
        if name == "gflow.internal" or name.startswith("theory.reproduce."):
            continue
        written = sources.exported(module, known)
        if written:
            places = ((n, f"{source.name}.{node.name}") for n, (source, node) in written.items())
            found[name] = f"# {name}\n\n::: {name}\n    options:\n      members: false\n" + "".join(
                f"\n::: {place}\n    options:\n      heading: {name}.{n}\n      toc_label: {n}\n"
                for n, place in sorted(places)
            )
    return found


def on_config(config: Any) -> Any:
    config["nav"].append({"API": [f"api/{name}.md" for name in pages()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    for name, text in pages().items():
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files
