"""Papers of strangers: files with an experiment, and distributions that offer one."""

import json
from pathlib import Path

HEAD = '''"""A paper for the tests."""

import ctypes, dataclasses, os, sys, time

from theory.reproduce import Experiment


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int = 2


experiment = Experiment("{name}", "no paper", "for tests", __name__, Settings(), fast=Settings(1))


def run(report, settings):
'''


def write(folder: Path, name: str, *lines: str) -> Path:
    """A file whose `run(report, settings)` is these lines."""
    path = folder / f"{name.replace('-', '_')}.py"
    path.write_text(HEAD.format(name=name) + "".join(f"    {line}\n" for line in lines))
    return path


def distribution(folder: Path, name: str, **points: str) -> None:
    """What an installed package leaves beside its modules: here, entry points `name=module`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{key.replace('_', '-')} = {value}" for key, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[gflow.experiments]", *lines, ""]))


def written(folder: Path, name: str) -> dict:
    """The report that an experiment left."""
    return json.loads((folder / name / "report.json").read_text())
