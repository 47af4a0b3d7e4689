"""CIFAR-10 and WikiText-103 from small archives made here."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_archives
from small_archives import batch, md5

from gflow import tasks
from gflow.tasks import _wikitext

TRAINING = [f"data_batch_{i}" for i in range(1, 6)]
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3072), np.uint8)
LABELS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 0, 8]


def batches(**replaced):
    """Two images in each file."""
    names = [*TRAINING, "test_batch"]
    parts = {n: batch(PIXELS[2 * i : 2 * i + 2], LABELS[2 * i : 2 * i + 2])
             for i, n in enumerate(names)}  # fmt: skip
    return {n: x for n, x in (parts | replaced).items() if x is not None}


@pytest.fixture
def cifar(tmp_path):
    def made(**replaced):
        return small_archives.cifar(tmp_path / "cifar-10-python.tar.gz", batches(**replaced))

    return made


@pytest.fixture
def wikitext(tmp_path):
    def made(**parts):
        parts = {"train": " = Ape = \n\n An “ape” – é .\n", "valid": " Two\n"} | parts
        return small_archives.wikitext(tmp_path / "wikitext-103-raw-v1.zip", parts)

    return made


def test_pixels_and_labels_are_those_of_the_archive(cifar):
    path = cifar()
    task = tasks.cifar10(path, md5=md5(path))
    assert task.objective.inputs.shape == (10, 32, 32, 3)
    assert task.held_out.inputs.shape == (2, 32, 32, 3)
    assert task.objective.labels.tolist() + task.held_out.labels.tolist() == LABELS
    assert task.classes == 10
    images = np.concatenate([task.objective.inputs, task.held_out.inputs])
    for n in (0, 3, 11):
        for channel in range(3):
            for row in (0, 1, 31):
                for column in (0, 2, 31):
                    value = PIXELS[n, 1024 * channel + 32 * row + column] / 255
                    assert images[n, row, column, channel] == pytest.approx(value, rel=1e-15)


def test_some_images_are_spaced_evenly(cifar):
    path = cifar()
    task = tasks.cifar10(str(path), examples=5, held_out=1, md5=md5(path))
    assert task.objective.labels.tolist() == LABELS[0:10:2]
    assert task.held_out.labels.tolist() == LABELS[10:11]
    with pytest.raises(ValueError, match="held_out = 3: choose from 1 to 2"):
        tasks.cifar10(path, held_out=3, md5=md5(path))
    with pytest.raises(ValueError, match="examples = 11: choose from 1 to 10"):
        tasks.cifar10(path, examples=11, md5=md5(path))


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_pickle_of_todays_python_is_read(cifar, protocol):
    content = pickle.dumps({b"data": PIXELS[:2], b"labels": LABELS[:2]}, protocol)
    task = tasks.cifar10(cifar(data_batch_1=content), md5=None)
    assert task.objective.labels.tolist() == LABELS[:10]


class Calls:
    """What runs code when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.mkdir, "{}"), (os.system, "mkdir {}"), (eval, "__import__('os').mkdir('{}')")],
)
def test_no_pickle_runs_code(function, argument, cifar, tmp_path):
    written = tmp_path / "written"
    content = pickle.dumps({b"data": Calls(function, argument.format(written))}, 4)
    with pytest.raises(ValueError, match=rf"not read: it asks for \w+\.{function.__name__}"):
        tasks.cifar10(cifar(test_batch=content), md5=None)
    assert not written.exists()
    pickle.loads(content)
    assert written.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"data": np.array([{}])}, 4), "asks for an array of object"),
        (pickle.dumps({b"data": np.float64(1.0)}, 4), r"asks for numpy.*scalar"),
        (pickle.dumps(np.zeros(3).astype, 4), "asks for"),
        (batch(PIXELS[:2], [3, 10]), "test_batch has labels other than the integers 0 … 9"),
        (batch(PIXELS[:2], [-1, 3]), "labels other than"),
        (batch(PIXELS[:2], [1]), r"data of shape \(2, 3072\).*a label for each"),
        (batch(PIXELS[:2, :5], [1, 2]), r"data of shape \(2, 5\)"),
        (pickle.dumps({b"data": PIXELS[:2] / 255, b"labels": [1, 2]}, 4), "float64"),
        (pickle.dumps({b"data": PIXELS[:2], b"labels": [0.5, 1.0]}, 4), "labels other than"),
        (pickle.dumps([1, 2], 4), "3072 bytes an image"),
        (b"\x80\x02}", "not read"),
        (b"", "not read"),
        (None, r"no archive of CIFAR-10.*test_batch"),
    ],
)
def test_what_is_no_batch_is_refused(cifar, content, message):
    with pytest.raises(ValueError, match=message):
        tasks.cifar10(cifar(test_batch=content), md5=None)


def test_characters_are_those_of_the_archive(wikitext):
    path = wikitext()
    text = tasks.wikitext103(path, md5=md5(path))
    assert text.decoded(text.training) == ' = Ape = \n\n An "ape" -  .\n'
    assert text.decoded(text.held_out) == " Two\n"
    loss = text.windows(4, count=3, key=jax.random.key(0))
    assert loss.inputs.shape == (3, 4)
    assert loss.inputs.dtype == jnp.int64
    np.testing.assert_array_equal(loss.inputs[:, 1:], loss.labels[:, :-1])


@pytest.mark.parametrize("characters", [None, 1, 7, 10, 100])
def test_the_first_characters_are_read_in_blocks(wikitext, characters, monkeypatch):
    monkeypatch.setattr(_wikitext, "BLOCK", 4)
    whole = "ab–é€ \n= x = 'q' zzz"
    text = tasks.wikitext103(wikitext(train=whole), characters=characters, md5=None)
    kept = whole[:characters].replace("–", "-").replace("é", "").replace("€", "")
    assert text.decoded(text.training) == kept
    assert text.decoded(text.held_out) == " Two\n"


@pytest.mark.parametrize(
    ("read", "name"),
    [(tasks.cifar10, "cifar-10-python.tar.gz"), (tasks.wikitext103, "wikitext-103-raw-v1.zip")],
)
def test_the_file_is_checked(read, name, tmp_path):
    path = tmp_path / "some.file"
    with pytest.raises(FileNotFoundError, match=rf"no file .*some\.file.*{name}.*not downloaded"):
        read(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        read(tmp_path)
    path.write_bytes(b"abc")
    known = "900150983cd24fb0d6963f7d28e17f72"  # of "abc", RFC 1321
    with pytest.raises(
        ValueError, match=rf"checksum {known}.*[0-9a-f]{{32}} is expected.*md5=None"
    ):
        read(path)
    with pytest.raises(ValueError, match=r"some\.file is no archive of"):
        read(path, md5=known)
    with pytest.raises(ValueError, match=r"some\.file is no archive of"):
        read(path, md5=None)


def test_parts_and_counts_are_needed(wikitext, tmp_path):
    with pytest.raises(ValueError, match="characters = 0"):
        tasks.wikitext103(wikitext(), characters=0, md5=None)
    path = small_archives.wikitext(tmp_path / "a.zip", {"train": "text"})
    with pytest.raises(ValueError, match=r"no archive of WikiText-103.*valid"):
        tasks.wikitext103(path, md5=None)
