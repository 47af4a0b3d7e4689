"""True predictions, and each of their claims falsified in turn, against runs at several α.

As a script it prints the confusion table: of true and of false claims, how many are confirmed,
undecided and refuted, and which break the rule. A false claim must never be confirmed, and must
be refuted when it is off by more than ten times bar plus allowance; a true one never refuted.
"""

import collections
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
import theory
from gflow.internal import (
    coordinate_label,
)
from gflow.models import DiagonalAttention, DiagonalLinear, SoftmaxAttention
from gflow.objectives import SquaredLoss
from theory._prediction import (
    Prediction,
)
from theory.gradual_rank._curves import Curves

LOG10 = math.log(10.0)
DECADES = (4, 8, 16, 100, 1000)


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A problem with a prediction, its runs, and predictions of other starts and other data."""

    name: str
    model: Any
    objective: Any
    predict: Callable[[Any, Any], Prediction]
    elsewhere: tuple[tuple[str, str, Any, Any], ...]

    @functools.cached_property
    def prediction(self) -> Prediction:
        return self.predict(self.model, self.objective)

    @functools.cached_property
    def others(self) -> list[tuple[str, str, Prediction]]:
        return [(n, key, self.predict(m, o)) for n, key, m, o in self.elsewhere]

    @functools.cached_property
    def runs(self) -> dict[int, gflow.Trajectory]:
        return {}

    def run(self, decades: int) -> gflow.Trajectory:
        if decades not in self.runs:
            self.runs[decades] = self._simulated(decades)
        return self.runs[decades]

    def _simulated(self, decades: int) -> gflow.Trajectory:
        model = gflow.rescale(self.model, -decades * LOG10)
        # room for the last orbit, which takes the longer in τ the larger α is
        last = self.prediction.stages[-1]
        end = 1.2 * last.tau + 60.0 / (last.rate * decades * LOG10)
        return gflow.simulate(model, self.objective, tau1=end, rtol=1e-9)


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


# --- families ------------------------------------------------------------------------------


def limit(model: Any, objective: Any) -> Prediction:
    return theory.gradual_rank.predict(model, objective)


@functools.cache
def fixture() -> Family:
    """Three steps, the second with a deactivation."""
    X = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7], [0, 0, 0, 0], [0, 0, 0, 0]])

    def objective(a):
        return SquaredLoss(jnp.asarray(X), jnp.array([a, 0, 0, 0]), "half_sum")

    def model(last):
        logs = [jnp.log(jnp.array(f)) for f in ((0.6, 1.7, 1.0, 0.8), (1.2, 0.7, 1.9, last))]
        scales = {n: x - 30 * LOG10 for n, x in zip(("log_s", "log_d"), logs, strict=True)}
        return DiagonalLinear(gflow.Hadamard.from_scales(**scales, log_alpha=-30 * LOG10))

    elsewhere = (
        ("other factors", "start.factors", model(0.95), objective(1.0)),
        ("other data", "start.data", model(0.9), objective(1.02)),
    )
    return Family("fixture", model(0.9), objective(1.0), limit, elsewhere)


@functools.cache
def path() -> Family:
    """The fixture by constrained least squares: limits without C."""
    base = fixture()

    def predict(model, objective):
        X, y = (np.asarray(x) for x in (objective.inputs, objective.targets))
        return theory.saddle_to_saddle.predict(X, y, "half_sum")

    other = tuple(e for e in base.elsewhere if e[1] == "start.data")
    return Family("saddle_to_saddle", base.model, base.objective, predict, other)


def _four_weights(name: str, objective: Callable[[float], Any], a: float) -> Family:
    """A linear model of four Hadamard weights on the data of `a`."""

    def model(seed):
        leaf = gflow.Hadamard.small(4, log_alpha=-30 * LOG10, key=jax.random.key(seed))
        return DiagonalLinear(leaf)

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(a)),
        ("other data", "start.data", model(0), objective(a + 0.04)),
    )
    return Family(name, model(0), objective(a), limit, elsewhere)


@functools.cache
def regression() -> Family:
    """Four correlated features and noise."""
    rng = np.random.default_rng(3)
    X = jnp.asarray(rng.standard_normal((30, 4)) @ np.linalg.cholesky(0.3 + 0.7 * np.eye(4)).T)
    noise = jnp.asarray(0.3 * rng.standard_normal(30))

    def objective(a):
        return SquaredLoss(X, X @ jnp.array([a, -1.2, 0.7, 0.4]) + noise)

    return _four_weights("regression", objective, 2.0)


@functools.cache
def diagonal_head() -> Family:
    """One softmax head with diagonal weights."""
    inputs = jnp.asarray(np.random.default_rng(2).standard_normal((40, 4, 3)))

    def objective(a):
        kq, vo = jnp.array([[a, 0.5, -0.6]]), jnp.array([[1.0, -0.7, 0.4]])
        teacher = DiagonalAttention(gflow.Frozen(kq), gflow.Frozen(vo))
        return SquaredLoss(inputs, jax.vmap(teacher)(inputs))

    def model(seed):
        keys = jax.random.split(jax.random.key(seed))
        leaves = (gflow.Hadamard.small((1, 3), log_alpha=-30 * LOG10, key=k) for k in keys)
        return DiagonalAttention(*leaves)

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(1.3)),
        ("other data", "start.data", model(0), objective(1.35)),
    )
    return Family("diagonal head", model(0), objective(1.3), limit, elsewhere)


class Leaf(eqx.Module):
    """One matrix and, or nothing, weights beside it."""

    matrix: gflow.Factored
    weight: gflow.Hadamard | None = None


class Quadratic(eqx.Module):
    """½⟨w − target, K(w − target)⟩ of all weights of a Leaf."""

    kernel: jax.Array
    target: jax.Array

    def __call__(self, model: Leaf) -> jax.Array:
        parts = [model.matrix.value.ravel()]
        if model.weight is not None:
            parts.append(model.weight.value.ravel())
        rest = jnp.concatenate(parts) - self.target
        return 0.5 * jnp.dot(rest, jnp.matmul(self.kernel, rest))


def _quadratic(name: str, seed: int, weights: int) -> Family:
    size = 9 + weights
    root = np.random.default_rng(seed).standard_normal((size, size))
    kernel = jnp.asarray(root @ root.T / size + 0.5 * np.eye(size))
    target = np.random.default_rng(seed + 1).standard_normal(size)

    def objective(a):
        return Quadratic(kernel, jnp.asarray(a * target))

    def model(start):
        keys = jax.random.split(jax.random.key(start))
        matrix = gflow.Factored.small((3, 3), 3, log_alpha=-30 * LOG10, key=keys[0])
        if not weights:
            return Leaf(matrix)
        return Leaf(matrix, gflow.Hadamard.small(weights, log_alpha=-30 * LOG10, key=keys[1]))

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(1.0)),
        ("other data", "start.data", model(0), objective(1.02)),
    )
    return Family(name, model(0), objective(1.0), limit, elsewhere)


@functools.cache
def matrix() -> Family:
    """A full 3 × 3 matrix on a quadratic loss."""
    return _quadratic("matrix", 7, 0)


@functools.cache
def mixed() -> Family:
    """A matrix beside three Hadamard weights."""
    return _quadratic("mixed", 5, 3)


@functools.cache
def copies() -> Family:
    """Three features, the first in two equal columns: both weights learn it, in kept shares."""
    features = np.random.default_rng(4).standard_normal((30, 3)) @ np.diag([1.0, 0.8, 1.1])
    X = jnp.asarray(features[:, [0, 0, 1, 2]])

    def objective(a):
        return SquaredLoss(X, X[:, 1:] @ jnp.array([a, -0.9, 0.5]))

    return _four_weights("copies", objective, 1.6)


@functools.cache
def full_head() -> Family:
    """One softmax head with full matrices."""
    rng = np.random.default_rng(1)
    inputs = jnp.asarray(rng.standard_normal((48, 5, 3)))
    kq, vo = (rng.standard_normal((3, 2)) @ rng.standard_normal((2, 3)) for _ in range(2))

    def objective(a):
        teacher = SoftmaxAttention(
            gflow.Frozen(jnp.asarray(0.6 * a * kq)), gflow.Frozen(jnp.asarray(vo))
        )
        return SquaredLoss(inputs, jax.vmap(teacher)(inputs))

    def model(seed):
        keys = jax.random.split(jax.random.key(seed))
        leaves = [gflow.Factored.small((3, 3), 2, log_alpha=-30 * LOG10, key=k) for k in keys]
        return SoftmaxAttention(leaves[0], leaves[1])

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(1.0)),
        ("other data", "start.data", model(0), objective(1.02)),
    )
    return Family("full head", model(0), objective(1.0), limit, elsewhere)


FAMILIES = (fixture, path, regression, diagonal_head, matrix, mixed, full_head, copies)


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
