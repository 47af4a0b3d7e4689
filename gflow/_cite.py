"""What a result rests on: BibTeX of the papers behind a prediction and of the solvers of a run."""

import functools
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from ._display import Displayed, Summary
from ._version import __version__

_IDENTIFIER = re.compile(r"\b\d{4}\.\d{4,5}\b")


@runtime_checkable
class Citable(Protocol):
    """A result that says in words what it rests on: methods, and papers by number or by name."""

    def cited(self) -> list[str]: ...


class Reference(NamedTuple):
    """An entry of BibTeX: its kind, key and fields."""

    kind: str
    key: str
    fields: dict[str, str]

    def bibtex(self) -> str:
        shown = {name: x for name, x in self.fields.items() if name != "keywords"}
        if "eprint" in shown:
            shown["archiveprefix"] = "arXiv"
        lines = [f"  {name} = {{{value}}}," for name, value in shown.items()]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])

    def text(self) -> str:
        authors = [name.strip("{}") for name in self.fields.get("author", "").split(" and ")]
        first = authors[0].partition(",")[0]
        who = first if len(authors) == 1 else f"{first} et al." if len(authors) > 2 else ""
        who = who or " & ".join(name.partition(",")[0] for name in authors)
        number = f"arXiv {self.fields['eprint']}" if "eprint" in self.fields else ""
        where = self.fields.get("journal", self.fields.get("booktitle", ""))
        parts = [f"{who} {self.fields.get('year', '')}".strip(), self.fields.get("title", "")]
        return ", ".join(part for part in (*parts, where, number) if part)

    def names(self, clause: str) -> bool:
        """Whether a clause speaks of it: by number, by keyword, or by first author and year."""
        if "eprint" in self.fields and self.fields["eprint"] in _IDENTIFIER.findall(clause):
            return True
        words = [word.strip() for word in self.fields.get("keywords", "").split(",")]
        if any(word and re.search(rf"\b{re.escape(word)}\b", clause) for word in words):
            return True
        if _IDENTIFIER.search(clause):
            return False
        author = _plain(self.fields.get("author", "")).partition(",")[0]
        return re.match(rf"{re.escape(author)}\b.*\b{self.fields['year']}\b", clause) is not None


class Citation(Displayed):
    """References of results: `bibtex`, or `str` for one line each.

    `unknown`: what results say they rest on and the bibliography does not have.
    """

    def __init__(self, references: list[Reference], unknown: list[str]):
        self.references, self.unknown = references, unknown

    @property
    def bibtex(self) -> str:
        """Entries of BibTeX, for a .bib file; what is unknown stands there as a comment."""
        entries = [reference.bibtex() for reference in self.references]
        return "\n\n".join([*entries, *(f"% rests on: {clause}" for clause in self.unknown)])

    def _summary(self) -> Summary:
        facts = [(reference.key, reference.text()) for reference in self.references]
        rest = [f"not in the bibliography: {clause}" for clause in self.unknown]
        return Summary("References (.bibtex for BibTeX)", facts, [], rest)


def cite(*results: Citable) -> Citation:
    """The papers and solvers that results rest on.

    **Arguments:** `results`: trajectories, batches, predictions, comparisons. A prediction cites
    what its `source` and those of its curves and numbers name, a run the methods that made it.

    **Returns:** a `Citation`: print it, or write `.bibtex` to a file. A paper of yours that only
    its arXiv number is known of is an entry with that number; other words are in `.unknown`.

    **Raises:** ValueError for what is no result.

    ```python
    print(gflow.cite(trajectory, prediction))
    Path("refs.bib").write_text(gflow.cite(comparison).bibtex)
    ```
    """
    found: dict[str, Reference] = {}
    unknown: dict[str, None] = {}
    for result in results:
        if not isinstance(result, Citable) or isinstance(result, type):
            raise ValueError(
                f"{result!r:.100} is no result to cite: pass trajectories, batches, predictions or "
                "comparisons."
            )
    for words in ["gflow", *(words for result in results for words in result.cited())]:
        for clause in filter(None, (part.strip() for part in words.split(";"))):
            own = _named(clause)
            found |= {reference.key: reference for reference in own}
            if not own:
                unknown[clause] = None
    return Citation(list(found.values()), list(unknown))


def _named(clause: str) -> list[Reference]:
    known = bibliography()
    if clause in known:
        return [known[clause]]
    folded = _plain(clause)
    own = [reference for reference in known.values() if reference.names(folded)]
    have = {reference.fields.get("eprint") for reference in own}
    others = [n for n in dict.fromkeys(_IDENTIFIER.findall(clause)) if n not in have]
    return [*own, *(Reference("misc", f"arxiv{n}", {"eprint": n}) for n in others)]


@functools.cache
def bibliography() -> dict[str, Reference]:
    """The entries of references.bib by key."""
    text = (Path(__file__).parent / "references.bib").read_text(encoding="utf-8")
    found = {}
    for kind, key, body in re.findall(r"@(\w+)\{(\w+),\n(.*?)\n\}", text, re.DOTALL):
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, re.MULTILINE))
        found[key] = Reference(kind, key, fields)
    own = found["gflow"]
    found["gflow"] = own._replace(fields=own.fields | {"version": __version__})
    return found


def _plain(text: str) -> str:
    """Without accents, as papers are often named."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
