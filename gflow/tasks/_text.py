"""English text that ships with Python itself: the language reference behind `help()`."""

import platform

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from ..objectives._cross_entropy import CrossEntropy
from ._task import check_count

#: Printable ASCII and the line break.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."})
#: Of this many paragraphs one is held out.
SHARE = 10


class Text(eqx.Module):
    """Characters as indices into `alphabet`, and paragraphs that are held out."""

    training: Int[np.ndarray | Array, " characters"]
    held_out: Int[np.ndarray | Array, " held_out"]
    alphabet: str = eqx.field(static=True)

    @property
    def vocabulary(self) -> int:
        return len(self.alphabet)

    def windows(
        self, length: int, *, count: int, key: PRNGKeyArray, held_out: bool = False
    ) -> CrossEntropy:
        """Nats a character on `count` random windows of `length` characters."""
        text = self.held_out if held_out else self.training
        check_count("count", count, 1)
        check_count("length", length, 1, len(text) - 1)
        starts = jax.random.randint(key, (count,), 0, len(text) - length)
        return windows(jnp.asarray(text), starts, length)

    def decoded(self, tokens: Int[np.ndarray | Array, " n"]) -> str:
        """Tokens as text."""
        return "".join(self.alphabet[int(i)] for i in tokens)


def windows(
    text: Int[Array, " characters"], starts: Int[Array, " count"], length: int
) -> CrossEntropy:
    """The characters from each start on, and each one's successor as its target."""
    index = starts[:, None] + jnp.arange(length)[None]
    return CrossEntropy(text[index], text[index + 1], "token_mean")


def python_reference() -> Text:
    """The Python language reference, about 400 000 characters of English prose and code.

    It is `pydoc_data.topics`, what `help("for")` prints, under the PSF licence, and was
    chosen because every CPython has it: nothing to download, nothing to host. It differs a
    little between versions of Python. Topics repeat parts of one another, so paragraphs
    are made unique before every tenth is held out. Typographic quotes and dashes become
    ASCII; other characters outside it are dropped.

    **Raises:** ImportError where the Python at hand leaves the module out.

    ```python
    text = gflow.tasks.python_reference()
    text.windows(64, count=16, key=jax.random.key(0))      # a loss, model -> nats a character
    ```
    """
    try:
        from pydoc_data import topics  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:
        raise ImportError(
            "The text is the language reference that ships with CPython as pydoc_data.topics, and "
            f"this {platform.python_implementation()} {platform.python_version()} leaves it out. "
            "Use a CPython of python.org, uv or conda, or the complete package of your system."
        ) from error
    pieces = [p for _, topic in sorted(topics.topics.items()) for p in topic.split("\n\n")]
    paragraphs = list(dict.fromkeys(p.strip("\n") for p in pieces if p.strip()))
    held_out = paragraphs[SHARE - 1 :: SHARE]
    training = [p for i, p in enumerate(paragraphs) if i % SHARE != SHARE - 1]
    return Text(_encoded(training), _encoded(held_out), ALPHABET)


def _encoded(paragraphs: list[str]) -> np.ndarray:
    place = {character: i for i, character in enumerate(ALPHABET)}
    text = "\n\n".join(paragraphs).translate(_PLAIN)
    return np.array([place[c] for c in text if c in place])
