"""What was asked of gflow, as ratios within one run, and what was measured.

A target whose measurement was not part of the run is listed with `passed` = None.
"""

import math
from collections.abc import Iterable
from typing import Any

from . import (
    condensation,
    decay,
    depth,
    ends,
    example,
    gauge,
    infinity,
    laws,
    reading,
    transformers,
    units,
)
from .accuracy import Verdict
from .contenders import FLOW, FLOW_BARS, OWN
from .grids import alpha_name
from .problems import MAIN

#: (−log₁₀ α, how many times faster than the fastest alternative that is right).
AGAINST_FASTEST = (
    (2, 1 / 1.5), (4, 1 / 1.5), (8, 1 / 1.5), (16, 2.0), (100, 10.0), (300, 10.0),
    (10_000, 10.0), (1_000_000, 10.0),
)  # fmt: skip

#: (section, its module): each says what was asked of it, and prints its own tables.
JUDGED = (
    ("ends", ends), ("reading", reading), ("example", example), ("gauge", gauge),
    ("decay", decay), ("condensation", condensation), ("units", units),
    ("infinity", infinity), ("laws", laws), ("depth", depth), ("transformers", transformers),
)  # fmt: skip

#: The hand-written baseline that was named; other solvers in its coordinates are extra.
BASELINE = ("dual, SciPy Radau", "dual, Diffrax Kvaerno3")


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a target: `name`, `asked`, `measured`, `passed`."""
    single = results.get("single", {})
    costs = [row for row in single.get("costs", []) if row["problem"] == MAIN]
    rows = [
        _at_most("cost at 10^-1000000 over cost at 1e-16, p = 10", 2.5, _growth(costs)),
        _at_most("steps at 10^-1000000 over steps at 1e-3, rtol 1e-8", 3.0, _steps(single)),
    ]
    for exponent, asked in AGAINST_FASTEST:
        here = [row for row in costs if row["exponent"] == exponent]
        rows.append(
            _at_least(
                f"fastest alternative over gflow, p = 10, {alpha_name(exponent)}",
                asked,
                _ratio(here, lambda row: row["method"] not in OWN),
            )
        )
    rows += _against_dual(costs)
    rows.append(_at_most("wrong answers of gflow that claim success", 0, _lies(single)))
    rows += _batch(results)
    for name, section in JUDGED:
        most, least = section.asked(results.get(name, {}))
        rows += [_at_most(*row) for row in most] + [_at_least(*row) for row in least]
    rows += _large(results.get("large", {}))
    return rows


def _row(name: str, asked: str, measured: float | None, passed: bool | None) -> dict[str, Any]:
    return {"name": name, "asked": asked, "measured": measured, "passed": passed}


def _at_least(name: str, asked: float, measured: float | None) -> dict[str, Any]:
    return _row(name, f"≥ {asked:.3g}", measured, None if measured is None else measured >= asked)


def _at_most(name: str, asked: float, measured: float | None) -> dict[str, Any]:
    return _row(name, f"≤ {asked:.3g}", measured, None if measured is None else measured <= asked)


def _seconds(rows: Iterable[dict[str, Any]], chosen) -> float | None:
    """Fastest of the chosen rows that are right."""
    times = [r["seconds"] for r in rows if chosen(r) and r["verdict"] == Verdict.RIGHT]
    return min(times, default=None)


def _ratio(rows: list[dict[str, Any]], chosen) -> float | None:
    """Fastest of the chosen over gflow; ∞ where none is right, None where gflow was not run."""
    own = _seconds(rows, lambda row: row["method"] == FLOW)
    if not any(row["method"] == FLOW for row in rows):
        return None
    if own is None:
        return 0.0
    other = _seconds(rows, chosen)
    return math.inf if other is None else other / own


def _growth(costs: list[dict[str, Any]]) -> float | None:
    far, near = (
        _seconds(costs, lambda row, e=e: row["method"] == FLOW and row["exponent"] == e)
        for e in (1_000_000, 16)
    )
    return None if far is None or near is None else far / near


def _steps(single: dict[str, Any]) -> float | None:
    steps = {row["exponent"]: row["steps"] for row in single.get("steps", [])}
    return steps[1_000_000] / steps[3] if {3, 1_000_000} <= steps.keys() else None


def _against_dual(costs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The smallest ratio over all α."""

    def smallest(chosen):
        exponents = sorted({row["exponent"] for row in costs})
        ratios = [_ratio([r for r in costs if r["exponent"] == e], chosen) for e in exponents]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    return [
        _at_least(
            "dual coordinates by hand (Radau, Kvaerno3) over gflow, every α",
            3.0,
            smallest(lambda row: row["method"] in BASELINE),
        ),
        _at_least(
            "dual coordinates by hand, whichever solver is fastest, over gflow, every α",
            3.0,
            smallest(lambda row: row["coordinates"] == "dual"),
        ),
    ]


def _lies(single: dict[str, Any]) -> int | None:
    def own(part):
        return [row for row in single.get(part, []) if row["method"] in (FLOW, FLOW_BARS)]

    verdicts = [v for row in own("sweeps") for v in row["verdict"]]
    verdicts += [row["verdict"] for row in own("settings")]
    return sum(v == Verdict.LIE for v in verdicts) if verdicts else None


def _batch(results: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for section in (name for name in results if name.startswith("batch")):
        part = results[section]
        for row in part.get("summary", []):
            if row["size"] != 256:
                continue
            where = f"{part['platform']}, {row['problem']}, {alpha_name(row['exponent'])}"
            asked = f"fastest SciPy loop over gflow's batch of {row['size']} ({where})"
            rows.append(_at_least(asked, 100.0, row["over_scipy"]))
            if (row["problem"], row["exponent"]) == (MAIN, 100):
                asked = f"CPU time: cheapest SciPy loop over gflow's batch of 256 ({where})"
                rows.append(_at_least(asked, 60.0, row.get("cpu_over_scipy")))
        if "hard_member" in part:
            hard = part["hard_member"]
            asked = f"useful work, one member {hard['harder']:.0f} times harder"
            rows.append(_at_least(asked, 0.6, hard["useful_work"]))
    return rows


def _large(large: dict[str, Any]) -> list[dict[str, Any]]:
    if large.get("problem", {}).get("parameters", 0) < 10_000:
        return []
    counts = {row["solver"]: row["evaluations"] for row in large["rows"]}
    usual = [counts.pop(name) for name in ("Tsit5", "Dopri8") if name in counts]
    return [
        _at_least(f"gradients of Tsit5 and Dopri8 over those of {name}", 5.0, min(usual) / count)
        for name, count in counts.items()
    ]
