"""The first example of the README in a new process: seconds to its table, and to a second one.

The block of code is run as it stands. The second example is its statements once more, without
imports and classes, at another α and with another seed, in the same process. gflow keeps what it
compiles in a folder of the user's cache; here that is a temporary one, empty at first and then
warm.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[1]

#: At most so many CPU seconds.
WARM, EMPTY, SECOND = 6.0, 10.0, 1.0

_SCRIPT = """\
import json as _json, time as _time
_marks = []
def _mark():
    _marks.append((_time.process_time(), _time.time()))
{first}
_mark()
{second}
_mark()
print(_json.dumps(_marks))
"""


def first_block(text: str) -> str:
    """The first block of Python in a Markdown text."""
    found = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def second_of(block: str) -> str:
    """Its assignments and what it prints once more, with other numbers."""

    def again(node: ast.stmt) -> bool:
        printed = isinstance(node, ast.Expr) and ast.unparse(node).startswith("print")
        return printed or isinstance(node, ast.Assign)

    nodes = [node for node in ast.parse(block).body if again(node)]
    text = ast.unparse(ast.Module(nodes, []))
    text = re.sub(r"log_alpha=-(\d+)", lambda found: f"log_alpha=-{2 * int(found[1])}", text)
    return text.replace("key(0)", "key(1)")


def script() -> str:
    """The two examples, and the clock after each of them."""
    block = first_block((HOME / "README.md").read_text())
    return _SCRIPT.format(first=block, second=second_of(block))


def run(quick: bool, say) -> dict[str, Any]:
    """`rows`: seconds and CPU seconds to both tables, with an empty and a warm cache."""
    if quick:
        return {"skipped": "takes half a minute"}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.py"
        path.write_text(script())
        for cache in ("empty", "warm", "warm"):
            say(f"example: new process with {cache} cache")
            rows.append({"cache": cache, **_timed(path, Path(folder) / "cache")})
    return {"rows": rows}


def _timed(path: Path, cache: Path) -> dict[str, float]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    kept.pop("OMP_NUM_THREADS", None)
    where = os.pathsep.join([str(HOME), *filter(None, [kept.get("PYTHONPATH")])])
    kept |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": where, "MPLBACKEND": "Agg"}
    began = time.time()
    done = subprocess.run(
        [sys.executable, str(path)], env=kept, cwd=path.parent, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"the README's first example failed: {done.stderr[-2000:]}")
    first, second = json.loads(done.stdout.splitlines()[-1])
    return {
        "seconds": first[1] - began,
        "cpu_seconds": first[0],
        "second_seconds": second[1] - first[1],
        "second_cpu_seconds": second[0] - first[0],
    }


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float | None]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""

    def least(cache: str, key: str) -> float | None:
        found = [row[key] for row in part.get("rows", ()) if row["cache"] == cache]
        return min(found, default=None)

    name = "CPU s of the README's first example, new process"
    most = [
        (f"{name}, warm cache", WARM, least("warm", "cpu_seconds")),
        (f"{name}, empty cache", EMPTY, least("empty", "cpu_seconds")),
        ("CPU s of a second example, same process", SECOND, least("warm", "second_cpu_seconds")),
    ]
    return most, []


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows."""
    keys = ("seconds", "cpu_seconds", "second_seconds", "second_cpu_seconds")
    rows = [[r["cache"], *(f"{r[key]:.3g}" for key in keys)] for r in part.get("rows", ())]
    head = ["cache", "s", "CPU s", "second example, s", "CPU s"]
    return [("The README's first example in a new process", head, rows)] if rows else []
