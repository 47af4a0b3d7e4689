"""Archives of CIFAR-10 and WikiText-103 with little in them, byte for byte as the large ones."""

import hashlib
import io
import struct
import tarfile
import zipfile


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def batch(pixels, labels):
    """The pickle that Python 2 wrote of {"data": pixels, "labels": labels}, protocol 2."""

    def text(x):
        return b"U" + bytes([len(x)]) + x

    def number(n):
        return b"J" + struct.pack("<i", n)

    raw = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85"
        + text(b"b") + b"\x87R(" + number(1) + number(pixels.shape[0]) + number(pixels.shape[1])
        + b"\x86cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R(" + number(3)
        + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def cifar(path, batches):
    """`batches`: the bytes of each file by its name."""
    with tarfile.open(path, "w:gz") as files:
        for name, content in batches.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    return path


def wikitext(path, parts):
    """`parts`: text by the name of the part."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as files:
        for name, text in parts.items():
            files.writestr(f"wikitext-103-raw/wiki.{name}.raw", text.encode())
    return path
