"""English prose that ships with SciPy: what its docstrings explain in whole sentences."""

import ast
from collections.abc import Iterator
from pathlib import Path

import scipy

from ._text import Text, split

#: A paragraph of fewer characters is the summary of a function.
SHORTEST = 100
#: What lines of code, lists, directives and underlined headings begin with.
MARKUP = (" ", ">>>", "..", "-", "*", "=")
#: Rooms of other authors, or without prose.
LEFT_OUT = {"tests", "_lib", "_external"}


def scipy_prose() -> Text:
    """Explanations from SciPy's docstrings, about 600 000 characters of English sentences.

    SciPy is a dependency of gflow, so that everyone who has it has the text, and its licence is
    BSD-3-Clause: nothing to download, nothing to host. It differs a little between versions of
    SciPy. A paragraph counts when it runs to 100 characters or more, begins with a capital,
    ends in a full stop and has no line of code, list or table; paragraphs are made unique
    before every tenth is held out. The English is that of numerical mathematics, with formulas and
    names of functions inside of sentences. Reading it takes a few seconds.

    ```python
    text = gflow.tasks.scipy_prose()
    text.windows(64, count=16, key=jax.random.key(0))      # a loss, model -> nats a character
    ```
    """
    root = Path(scipy.__file__).parent
    files = sorted(p for p in root.rglob("*.py") if LEFT_OUT.isdisjoint(p.relative_to(root).parts))
    return split([paragraph for file in files for paragraph in _paragraphs(file)])


def _paragraphs(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for block in (ast.get_docstring(node) or "").split("\n\n"):
                lines = block.strip("\n").split("\n")
                if _sentences(lines):
                    yield " ".join(lines)


def _sentences(lines: list[str]) -> bool:
    text = " ".join(lines)
    whole = len(text) >= SHORTEST and text[0].isupper() and text.endswith(".")
    return whole and not any(line.startswith(MARKUP) for line in lines)
