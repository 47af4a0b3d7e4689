"""Text as characters; that which ships with Python, the language reference behind `help()`."""

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
#: The place of every ASCII character in the alphabet, −1 for those outside.
_PLACE = np.full(128, -1, np.int8)
_PLACE[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))
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
    tokens, following = (text[i].astype(int) for i in (index, index + 1))
    return CrossEntropy(tokens, following, "token_mean")


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
    return split([p.strip("\n") for p in pieces if p.strip()])


def split(paragraphs: list[str]) -> Text:
    """Every tenth of the different paragraphs held out."""
    unique = list(dict.fromkeys(paragraphs))
    training = [p for i, p in enumerate(unique) if i % SHARE != SHARE - 1]
    held_out = unique[SHARE - 1 :: SHARE]
    return Text(*(encoded("\n\n".join(part)) for part in (training, held_out)), ALPHABET)


def encoded(text: str) -> Int[np.ndarray, " characters"]:
    """The characters of the alphabet in `text`, one byte each."""
    plain = text.translate(_PLAIN).encode("ascii", "ignore")
    found = _PLACE[np.frombuffer(plain, np.uint8)]
    return found[found >= 0]
