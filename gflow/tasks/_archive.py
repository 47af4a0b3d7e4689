"""Archives that users have: found, and known by their checksum."""

import hashlib
from pathlib import Path


def archive(path: str | Path, name: str, source: str, md5: str | None) -> Path:
    """`path`, if its file has this checksum (None: any).

    **Raises:** FileNotFoundError where there is none; ValueError for another checksum.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. It should be {name}, of {source}, which is not downloaded "
            "here: get it and pass its path."
        )
    if md5 is None:
        return path
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} has the MD5 checksum {found}, and {md5} is expected of {name}: the file is "
            "incomplete or another one. Get it again, or pass md5=None to read it as it is."
        )
    return path
