"""True predictions, and each of their claims falsified in turn, against runs at several α.

As a script it prints the confusion table: of true and of false claims, how many are confirmed,
undecided and refuted, and which break the rule. A false claim must never be confirmed, and must
be refuted when it is off by more than ten times bar plus allowance; a true one never refuted.
"""

import collections
import dataclasses
import math
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from predicted_families import FAMILIES, Family

import theory
from gflow.internal import coordinate_label
from theory._prediction import Prediction
from theory.gradual_rank._curves import Curves

DECADES = (4, 8, 16, 100, 1000)


def falsified(family: Family) -> Iterator[tuple[str, str, Prediction]]:
    """What is wrong, the key of the claim it is about ("" if several), and the prediction."""
    true = family.prediction
    losses = [true.start.loss, *(s.loss for s in true.stages)]

    def at(k: int, **values: Any) -> Prediction:
        stages = list(true.stages)
        stages[k] = dataclasses.replace(stages[k], **values)
        return dataclasses.replace(true, stages=stages)

    for k, stage in enumerate(true.stages):
        n = f"stage{k + 1}"
        yield "T × 1.05", f"{n}.time", at(k, tau=1.05 * stage.tau)
        yield "T × 1.3", f"{n}.time", at(k, tau=1.3 * stage.tau)
        if math.isfinite(stage.offset):
            yield "C + 0.1", f"{n}.time", at(k, offset=stage.offset + 0.1)
            yield "C − 0.1", f"{n}.time", at(k, offset=stage.offset - 0.1)
            if abs(stage.offset) > 0.05:
                yield "−C", f"{n}.time", at(k, offset=-stage.offset)
        step = abs(losses[k + 1] - losses[k])
        yield "loss + step/5", f"{n}.loss", at(k, loss=stage.loss + 0.2 * step)
        yield "value × 1.1", f"{n}.value", at(k, value=_largest_changed(stage.value))
        rank = stage.rank
        more = (
            {m: np.asarray(x + 1) for m, x in rank.items()} if isinstance(rank, dict) else rank + 1
        )
        yield "rank + 1", f"{n}.rank", at(k, rank=more)
        for c, share in stage.shares.items():
            shares = {**stage.shares, c: 0.8 * share}
            label = f"{n}.share.{coordinate_label(c)}"
            yield "share × 0.8", label, at(k, shares=shares)
            break
        if k:
            before = true.stages[k - 1]
            swapped = list(true.stages)
            for i, other in ((k - 1, stage), (k, before)):
                swapped[i] = dataclasses.replace(
                    swapped[i],
                    activated=other.activated,
                    deactivated=other.deactivated,
                    level=other.level,
                )
            yield "order swapped", "", dataclasses.replace(true, stages=swapped)
        yield "stage dropped", "", _without(true, k)
    last = true.stages[-1]
    added = dataclasses.replace(last, tau=1.1 * last.tau, loss=last.loss - 0.1 * losses[0])
    yield "stage added", "", dataclasses.replace(true, stages=[*true.stages, added])
    yield from family.others


def _without(true: Prediction, k: int) -> Prediction:
    """Without stage k; a path that ends before its last stage still has its orbits."""
    stages, curves = [s for i, s in enumerate(true.stages) if i != k], true.orbits
    if isinstance(curves, Curves):
        last = k == len(stages)
        orbits, plateaus = curves.orbits[:k], curves.plateaus[: k + 1]
        curves = dataclasses.replace(curves, orbits=orbits, plateaus=plateaus) if last else None
    return dataclasses.replace(true, stages=stages, orbits=curves)


def _largest_changed(value: Any) -> Any:
    if not isinstance(value, dict):
        return np.where(np.abs(value) == np.max(np.abs(value)), 1.1 * value, value)
    largest = max(value, key=lambda n: np.max(np.abs(value[n])))
    return {n: 1.1 * np.asarray(x) if n == largest else x for n, x in value.items()}


@dataclasses.dataclass(frozen=True)
class Finding:
    """How one prediction fared: the verdict on its false claim, or the worst of a true one."""

    family: str
    decades: int
    runs: int
    what: str
    verdict: str
    broken: str


def examine(family: Family, decades: int, second: int | None = None) -> list[Finding]:
    """The true prediction and all false ones against the run at 10^−decades."""
    run, other = family.run(decades), None if second is None else family.run(second)
    runs = 1 if other is None else 2
    findings = []
    table = theory.compare(run, family.prediction, second=other)
    wrong = [c.reason for c in table.claims if c.verdict == "refuted"]
    for claim in table.claims:
        what = "true " + claim.key.split(".")[-1].split("[")[0]
        broken = claim.reason if claim.verdict == "refuted" else ""
        findings.append(Finding(family.name, decades, runs, what, claim.verdict, broken))
    whole = "confirmed" if table.passed else "refuted" if wrong else "undecided"
    findings.append(Finding(family.name, decades, runs, "true, whole", whole, ""))
    for what, key, prediction in falsified(family):
        table = theory.compare(run, prediction, second=other)
        findings.append(Finding(family.name, decades, runs, what, *_on_false(table, key, what)))
    return findings


def _on_false(table: theory.Comparison, key: str, what: str) -> tuple[str, str]:
    """The verdict on what is false, and how it breaks the rule."""
    keys = {key}
    if key.endswith(".time"):
        keys |= {key.replace("time", "T" if what.startswith("T") else "C")}
    about = [c for c in table.claims if c.key in keys]
    if not about:
        verdicts = [c.verdict for c in table.claims]
        verdict = "refuted" if "refuted" in verdicts else "undecided"
        verdict = "confirmed" if table.passed else verdict
        return verdict, "passes" if table.passed else ""
    verdicts = [c.verdict for c in about]
    verdict = next((v for v in ("refuted", "undecided") if v in verdicts), "confirmed")
    broken = ""
    if verdict == "confirmed" or table.passed:
        broken = f"confirmed: {about[0].reason}"
    for claim in about:
        bound = 10.0 * (claim.bar + claim.allowance)
        if claim.verdict != "refuted" and abs(claim.miss) > bound and math.isfinite(claim.miss):
            broken = f"off by {abs(claim.miss) / bound:.3g} times ten bounds: {claim.reason}"
    return verdict, broken


def confusion(findings: list[Finding]) -> str:
    """Counts by what is claimed: confirmed, undecided, refuted, and broken rules."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for f in findings:
        rows[f.what][f.verdict] += 1
        rows[f.what]["broken"] += bool(f.broken)
    head = ("claim", "confirmed", "undecided", "refuted", "broken")
    lines = [f"{head[0]:20}" + "".join(f"{h:>11}" for h in head[1:])]
    lines += [f"{n:20}" + "".join(f"{c[h]:11d}" for h in head[1:]) for n, c in rows.items()]
    return "\n".join(lines)


def main(names: list[str]) -> int:
    jax.config.update("jax_enable_x64", True)
    everything = []
    for build in FAMILIES:
        if names and build.__name__ not in names:
            continue
        family, found = build(), []
        for decades, second in zip(DECADES, [*DECADES[1:], None], strict=True):
            found += examine(family, decades)
            if second is not None:
                found += examine(family, decades, second)
        print(f"\n{family.name}: {len(family.prediction.stages)} stages\n{confusion(found)}")
        for f in found:
            if f.broken:
                print(f"  α = 1e-{f.decades}, {f.runs} runs, {f.what}: {f.broken}", flush=True)
        everything += found
    print(f"\nall families\n{confusion(everything)}")
    return int(any(f.broken for f in everything))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
