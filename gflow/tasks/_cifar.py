"""CIFAR-10 from its archive, whose pickles are read as arrays and nothing else."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from ..objectives._cross_entropy import CrossEntropy
from ._archive import archive
from ._images import Images
from ._task import evenly, floats

MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
HELD_OUT = ("test_batch",)
SIDE, CHANNELS, CLASSES = 32, 3, 10


def cifar10(
    path: str | Path,
    *,
    examples: int | None = None,
    held_out: int | None = None,
    md5: str | None = MD5,
) -> Images:
    """CIFAR-10 from the file `cifar-10-python.tar.gz`: (32, 32, 3) in [0, 1], ten classes.

    `examples` of the 50 000 images to train on and `held_out` of the 10 000 test images, evenly
    spaced; `None` for all, which take 1.5 GB in float64. `md5`: the checksum that the file must
    have; `None` reads any. Nothing is downloaded or unpacked, and of the pickles in it only arrays,
    bytes, numbers, dictionaries and lists are read. Krizhevsky 2009.

    **Raises:** FileNotFoundError where there is no such file; ValueError for another checksum, for
    what is no CIFAR-10 archive, labels that are not 0 … 9, and counts out of range.

    ```python
    task = gflow.tasks.cifar10("cifar-10-python.tar.gz", examples=2000, held_out=1000)
    vit = gflow.models.VisionTransformer((32, 32, 3), patch=4, classes=10, key=jax.random.key(0))
    ```
    """
    source = "the page of CIFAR-10 by Alex Krizhevsky (University of Toronto)"
    path = archive(path, "cifar-10-python.tar.gz", source, md5)
    try:
        with tarfile.open(path) as files:
            training, test = (
                [_batch(files, name) for name in names] for names in (TRAINING, HELD_OUT)
            )
    except (tarfile.TarError, KeyError) as error:
        raise ValueError(
            f"{path} is no archive of CIFAR-10, with {FOLDER}/data_batch_1 and so on: {error}."
        ) from error
    return Images(
        _selected(training, "examples", examples), _selected(test, "held_out", held_out), CLASSES
    )


def _selected(
    batches: list[tuple[np.ndarray, np.ndarray]], name: str, count: int | None
) -> CrossEntropy:
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    kept = evenly(name, count, len(labels))
    images = pixels[kept].reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return CrossEntropy(floats(images) / 255.0, labels[kept])


def _batch(files: tarfile.TarFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072), uint8, and labels of one of the files."""
    file = files.extractfile(f"{FOLDER}/{name}")
    if file is None:
        raise KeyError(f"{name} is no file")
    content = _arrays(file.read(), name)
    pixels, labels = (
        content.get(key) if isinstance(content, dict) else None for key in (b"data", b"labels")
    )
    pixels, labels = np.asarray(pixels), np.asarray(labels)
    if pixels.dtype != np.uint8 or pixels.shape != (len(np.ravel(labels)), CHANNELS * SIDE**2):
        raise ValueError(
            f"{name} holds data of shape {pixels.shape} and type {pixels.dtype}; CIFAR-10 has "
            f"{CHANNELS * SIDE**2} bytes an image, and a label for each."
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or np.any((labels < 0) | (labels > 9)):
        raise ValueError(f"{name} has labels other than the integers 0 … {CLASSES - 1}.")
    return pixels, labels


class _Arrays(pickle.Unpickler):
    """Arrays of numbers, and what a pickle holds without naming a class."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _dtype(name: str | bytes, align: int = 0, copy: int = 1) -> np.dtype:
    found = np.dtype(name if isinstance(name, str) else name.decode(), copy=True)
    if found.kind not in "biuf":
        raise pickle.UnpicklingError(f"it asks for an array of {found}")
    return found


def _arrays(content: bytes, name: str) -> object:
    try:
        return _Arrays(io.BytesIO(content), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as error:
        raise ValueError(
            f"The pickle {name} is not read: {error}. Only arrays of numbers, bytes, dictionaries "
            "and lists are, so that no file can run code here."
        ) from error
