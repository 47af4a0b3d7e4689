"""WikiText-103 from its archive, as characters."""

import io
import zipfile
from pathlib import Path

import numpy as np

from ._archive import archive
from ._task import check_count
from ._text import ALPHABET, Text, encoded

MD5 = "0ca3512bd7a238be4a63ce7b434f8935"
FOLDER = "wikitext-103-raw"
BLOCK = 2**24


def wikitext103(
    path: str | Path,
    *,
    characters: int | None = None,
    md5: str | None = MD5,
) -> Text:
    """WikiText-103 from the file `wikitext-103-raw-v1.zip`: articles of Wikipedia.

    Trained on is its training part, some 540 million characters, or the first `characters` of
    it; held out is its validation part. The text is as it comes, with headings between `=` and
    ` @-@ ` for hyphens inside of words; typographic quotes and dashes become ASCII, and other
    characters outside it are dropped. `md5`: the checksum that the file must have; `None` reads
    any. Nothing is downloaded. Merity et al. 2016 (1609.07843), under CC BY-SA.

    **Raises:** FileNotFoundError where there is no such file; ValueError for another checksum, for
    what is no such archive, and `characters` below 1.

    ```python
    text = gflow.tasks.wikitext103("wikitext-103-raw-v1.zip", characters=10_000_000)
    text.windows(64, count=16, key=jax.random.key(0))      # a loss, model -> nats a character
    ```
    """
    if characters is not None:
        check_count("characters", characters, 1)
    source = "the WikiText language modeling dataset of Salesforce Research"
    path = archive(path, "wikitext-103-raw-v1.zip", source, md5)
    try:
        with zipfile.ZipFile(path) as files:
            parts = _read(files, "train", characters), _read(files, "valid", None)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{path} is no archive of WikiText-103, with {FOLDER}/wiki.train.raw and "
            f"wiki.valid.raw: {error}."
        ) from error
    return Text(*parts, ALPHABET)


def _read(files: zipfile.ZipFile, part: str, characters: int | None) -> np.ndarray:
    blocks, left = [encoded("")], characters
    with files.open(f"{FOLDER}/wiki.{part}.raw") as raw, io.TextIOWrapper(raw, "utf-8") as file:
        while text := file.read(BLOCK if left is None else min(left, BLOCK)):
            blocks.append(encoded(text))
            left = None if left is None else left - len(text)
    return np.concatenate(blocks)
