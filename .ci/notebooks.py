"""Run every notebook script in fast mode and hold the .ipynb beside it to the same cells.

With `--in-step` only the second, which takes a second.
"""

import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

import jupytext

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def cells(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source.strip()) for cell in jupytext.read(path).cells]


def out_of_step(script: Path) -> str | None:
    """What is wrong with the pair, if anything: text for a person."""
    notebook = script.with_suffix(".ipynb")
    if not notebook.exists():
        return f"{notebook.name} is missing"
    if cells(notebook) != cells(script):
        return f"{notebook.name} has other cells than {script.name}"
    code = [c for c in jupytext.read(notebook).cells if c.cell_type == "code" and c.source.strip()]
    if any(cell.execution_count is None for cell in code):
        return f"{notebook.name} was committed without being executed"
    return None


def in_step(script: Path) -> list[str]:
    """What is wrong with a script's notebook, and what to do."""
    if problem := out_of_step(script):
        remedy = f"jupytext --set-kernel python3 --to ipynb --execute notebooks/{script.name}"
        return [f"{problem}: run {remedy}"]
    return []


def executed(script: Path) -> list[str]:
    """What is wrong with a script and its notebook."""
    failures = in_step(script)
    start = time.monotonic()
    environment = os.environ | {"GFLOW_FAST": "1", "MPLBACKEND": "Agg"}
    run = subprocess.run(
        [sys.executable, script.name], cwd=NOTEBOOKS, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    print(f"{script.name}: {time.monotonic() - start:.0f} s\n{run.stdout}{run.stderr}", flush=True)
    if run.returncode != 0:
        failures.append(f"{script.name} failed with exit code {run.returncode}")
    return failures


def main() -> int:
    scripts = sorted(NOTEBOOKS.glob("*.py"))
    look = in_step if "--in-step" in sys.argv[1:] else executed
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        failures = [line for found in pool.map(look, scripts) for line in found]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
