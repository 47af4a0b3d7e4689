"""What a run leaves behind: Markdown tables, results.json, and where it was run."""

import datetime
import json
import math
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import gflow

from .accuracy import Verdict
from .contenders import OWN, SETTINGS
from .grids import alpha_name
from .targets import BASELINE, JUDGED, judge

PACKAGES = (
    "jax", "jaxlib", "diffrax", "equinox", "numpy", "scipy", "scikit-sundae", "torch",
    "torchdiffeq", "heyoka",
)  # fmt: skip


_WORDS = {
    Verdict.RIGHT: "right",
    Verdict.INEXACT: "inexact",
    Verdict.LIE: "**lie**",
    Verdict.FAILED: "failed",
}


def environment() -> dict[str, Any]:
    """Versions, machine, load and date: without them a time means nothing."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {"gflow": gflow.__version__} | {name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "device": jax.devices()[0].device_kind,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def save(path: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """Merge `sections` into the results already at `path`, judge all, write them."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {name: {"environment": environment(), **part} for name, part in sections.items()}
    results["targets"] = judge(results)
    results = _finite(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(_INNERMOST.sub(lambda found: " ".join(found[0].split()), text) + "\n")
    return results


#: Lists and objects that hold no others: a row each.
_INNERMOST = re.compile(r"[\[{][^\[\]{}]*[\]}]")


def _finite(x: Any) -> Any:
    """For JSON: five digits, and None for ∞ and NaN, which it does not have."""
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    if isinstance(x, float):
        return float(f"{x:.5g}") if math.isfinite(x) else None
    return x


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None or not math.isfinite(seconds) else f"{1e3 * seconds:.3g}"


def _both(row: dict[str, Any]) -> str:
    """Wall time, then CPU time."""
    return f"{_ms(row['seconds'])}, {_ms(row.get('cpu_seconds'))}"


def _number(x: Any) -> str:
    return "–" if x is None else f"{x:.3g}" if isinstance(x, float) else str(x)


def markdown(results: dict[str, Any]) -> str:
    """Every table there is data for."""
    parts = []
    if "single" in results:
        parts += _single(results["single"])
    for name in (name for name in results if name.startswith("batch")):
        parts += _batch(results[name])
    for name, section in JUDGED:
        for title, head, rows in section.tables(results.get(name, {})):
            parts.append(f"### {title}\n\n" + table(head, rows))
    if results.get("large", {}).get("rows"):
        parts += _large(results["large"])
    if results.get("cold", {}).get("rows"):
        head = ["cache", "first line, s", "all, s"]
        keys = ("cache", "seconds_to_first_line", "seconds")
        rows = [[_number(row[k]) for k in keys] for row in results["cold"]["rows"]]
        parts.append(f"### `{results['cold']['command']}`\n\n" + table(head, rows))
    words = {True: "met", False: "missed", None: "not run"}
    rows = [
        [row["name"], row["asked"], _number(row["measured"]), words[row["passed"]]]
        for row in results["targets"]
    ]
    parts.append("### Targets\n\n" + table(["ratio", "asked", "measured", ""], rows))
    return "\n\n".join(parts)


def _single(single: dict[str, Any]) -> list[str]:
    parts = []
    for name in dict.fromkeys(row["problem"] for row in single["costs"]):
        rows = [row for row in single["costs"] if row["problem"] == name]
        parts.append(f"### One trajectory: {name}, ms to 1e-6, CPU ms\n\n{_costs(rows)}")
    names = dict.fromkeys(row["problem"] for row in single["settings"])
    for name in names:
        rows = [row for row in single["settings"] if row["problem"] == name]
        parts.append(f"### What untuned settings claim: {name}\n\n{_settings(rows)}")
    if single["cold"]:
        head = ["problem", "method", "first call, s"]
        rows = [[r["problem"], r["method"], _number(r["seconds"])] for r in single["cold"]]
        parts.append("### First call, compilation included\n\n" + table(head, rows))
    return parts


def _costs(rows: list[dict[str, Any]]) -> str:
    """One line a method, one column an α; the last verdict where no tolerance was right."""
    exponents = sorted({row["exponent"] for row in rows})
    cells = {
        (row["method"], row["exponent"]): _both(row)
        if row["verdict"] == Verdict.RIGHT
        else _WORDS[row["verdict"]]
        for row in rows
    }
    methods = list(dict.fromkeys(row["method"] for row in rows))
    order = [m for m in (*OWN, *BASELINE) if m in methods]
    order += [m for m in methods if m not in order]
    lines = [[m, *(cells.get((m, e), "–") for e in exponents)] for m in order]
    return table(["method", *map(alpha_name, exponents)], lines)


def _settings(rows: list[dict[str, Any]]) -> str:
    """One line a method and setting: the verdict, with the error where it is wrong."""
    exponents = sorted({row["exponent"] for row in rows})

    def cell(found: dict[str, Any] | None) -> str:
        if found is None:
            return "–"
        word = _WORDS[found["verdict"]]
        if found["verdict"] in (Verdict.RIGHT, Verdict.FAILED):
            return word
        return f"{word} {found['error']:.0e}" if found["error"] is not None else f"{word} NaN"

    by = {(row["method"], row["setting"], row["exponent"]): row for row in rows}
    lines = [
        [method, setting, *(cell(by.get((method, setting, e))) for e in exponents)]
        for method in dict.fromkeys(row["method"] for row in rows)
        for setting in SETTINGS
        if any((method, setting, e) in by for e in exponents)
    ]
    return table(["method", "setting", *map(alpha_name, exponents)], lines)


def _batch(part: dict[str, Any]) -> list[str]:
    if "summary" not in part:
        return []
    head = [
        "problem", "α", "method", "size", "rtol", "ms a trajectory, CPU ms", "reading it, ms",
        "trajectories/s",
    ]  # fmt: skip
    rows = [
        [row["problem"], alpha_name(row["exponent"]), row["method"], str(row["size"]),
         f"{row['tolerance']:g}", _both(row), _ms(row["reading_seconds"]),
         _number(row["trajectories_per_second"])]
        for row in part["batches"]
    ]  # fmt: skip
    ratios = [
        "problem", "α", "over its own loop", "over fastest SciPy loop", "the same, CPU",
        "over fastest loop",
        "break-even own, SciPy",
    ]  # fmt: skip
    summary = [
        [row["problem"], alpha_name(row["exponent"]), _number(row["over_single"]),
         f"{_number(row['over_scipy'])} ({row['scipy']})",
         _number(row.get("cpu_over_scipy")),
         f"{_number(row['over_alternative'])} ({row['alternative']})",
         f"{_number(row['break_even_single'])}, {_number(row['break_even_scipy'])}"]
        for row in part["summary"]
    ]  # fmt: skip
    title = f"### Batches on {part['device']}"
    return [f"{title}\n\n{table(head, rows)}", table(ratios, summary)]


def _large(large: dict[str, Any]) -> list[str]:
    head = ["solver", "gradients", "steps", "s", "CPU s", "error", "states of memory"]
    keys = ("solver", "evaluations", "steps", "seconds", "cpu_seconds", "error", "states_of_memory")
    rows = [[_number(row.get(k)) for k in keys] for row in large["rows"]]
    about = large["problem"]
    title = (
        f"### {about['parameters']} plain weights, sharpness × time = {about['stiffness']:.2g}, "
        f"rtol {about['rtol']:g}"
    )
    return [f"{title}\n\n{table(head, rows)}"]
