"""From typing the command to a result: `gflow reproduce gradual-rank --fast` in a subprocess.

Twice with one compilation cache, empty before the first run: the second is what somebody
sees who has run it before. The cache is a directory of its own, thrown away afterwards.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMAND = ["-u", "-m", "gflow", "reproduce", "gradual-rank", "--fast", "--out"]


def run(quick: bool, say) -> dict[str, Any]:
    """`rows`: seconds to the first line and to the end, with an empty and a warm cache."""
    if quick:
        return {"skipped": "takes minutes"}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "MPLBACKEND": "Agg",
        }
        environment.pop("OMP_NUM_THREADS", None)
        for cache in ("empty", "warm"):
            say(f"cold: command line with {cache} cache")
            rows.append({"cache": cache, **_timed(environment, folder)})
    return {"command": "gflow reproduce gradual-rank --fast", "rows": rows}


def _timed(environment: dict[str, str], folder: str) -> dict[str, Any]:
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *COMMAND, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        to_first = time.perf_counter() - began
        process.stdout.read()
    return {
        "seconds_to_first_line": to_first if first else None,
        "seconds": time.perf_counter() - began,
        "status": process.returncode,
    }
