"""Random models against an integrator that shares no code with gflow.

    python tests/support/campaign.py --count 200 --seed 0

Every weight and loss at up to sixty recorded times, and every stage time, is compared with the
reference of `plain_flows`, whose own error is its distance from a run at a tolerance thirty times
as large. What is farther from it than its error bar and that distance together is a failure; one
line each, with the seed that makes the model again.
"""

import argparse
import dataclasses
import math
import sys
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from plain_flows import MATRICES, SMOOTH, Problem, Reference, draw, packed, unpacked
from scipy import ndimage

import gflow

#: Recorded times compared in one run.
TIMES = 60
#: Relative rounding that neither integrator is held to.
ROUNDING = 1e-12


class Loss(eqx.Module):
    """Mean loss of the data: one program for all smooth kinds, chosen by weights 0 and 1."""

    x: jax.Array
    left: jax.Array
    right: jax.Array
    y: jax.Array
    chosen: jax.Array
    huber: bool = eqx.field(static=True)

    @classmethod
    def of(cls, p: Problem) -> "Loss":
        chosen = np.array([float(p.kind == kind) for kind in SMOOTH])
        data = (jnp.asarray(a) for a in (p.x, p.left, p.right, p.y, chosen))
        return cls(*data, huber=p.kind == "huber")

    def __call__(self, model: dict[str, Any]) -> jax.Array:
        w = {n: a.value if isinstance(a, gflow.Parameter) else a for n, a in model.items()}
        z, y = self.predictor(w), self.y
        if self.huber:
            size = jnp.abs(z - y)
            return jnp.mean(jnp.where(size > 0.5, 0.5 * size - 0.125, 0.5 * size**2))
        kinds = (
            0.5 * (z - y) ** 2,
            jnp.logaddexp(jnp.zeros_like(z), -y * z),
            (z - y) ** 4 / 8.0,
            jnp.exp(z) - y * z,
            0.5 * (jnp.sin(z) - y) ** 2,
        )
        return jnp.dot(self.chosen, jnp.stack([jnp.mean(kind) for kind in kinds]))

    def predictor(self, w: dict[str, jax.Array]) -> jax.Array:
        z = jnp.zeros_like(self.y)
        if "h" in w:
            z = z + self.x @ w["h"]
        if "a" in w:
            z = z + self.x @ (w["a"] * w["b"])
        if "c" in w:
            z = z + self.x @ w["c"]
        if "w" in w:
            z = z + jnp.einsum("ni,ij,nj->n", self.left, w["w"], self.right)
        if "out" in w:
            z = z + jnp.tanh(self.x @ w["hidden"].T) @ w["out"]
        if "gate" in w:
            z = z * (1.0 + jnp.tanh(self.x @ w["gate"]))
        return z + w["bias"] if "bias" in w else z


def model_of(p: Problem) -> dict[str, Any]:
    """The model with the leaves of gflow."""
    model: dict[str, Any] = {}
    for name, x in unpacked(p, packed(p)).items():
        if name in ("h", "gate"):
            logs, (sign_s, sign_d) = p.log_alpha + p.factors[name][0], p.factors[name][1]
            model[name] = gflow.Hadamard.from_scales(
                log_s=logs[0], log_d=logs[1], sign_s=sign_s, sign_d=sign_d, log_alpha=p.log_alpha
            )
        elif name in MATRICES:
            model["w"] = gflow.Factored(*p.factors[name], p.log_alpha)
        elif name == "ab":
            model |= {"a": jnp.asarray(0.5 * (x[0] + x[1])), "b": jnp.asarray(0.5 * (x[0] - x[1]))}
        else:
            model[name] = jnp.asarray(x)
    return model


@dataclasses.dataclass(frozen=True)
class Compared:
    """Numbers of one run beside the reference's: where, |error|, bar, the reference's error."""

    where: list[str]
    error: np.ndarray
    bar: np.ndarray
    allowed: np.ndarray

    @property
    def outside(self) -> np.ndarray:
        return ~(self.error <= self.bar + self.allowed)

    @property
    def ratio(self) -> np.ndarray:
        """Bar over error, where the reference knows the error to a tenth."""
        known = self.error > 10.0 * self.allowed
        return self.bar[known] / self.error[known]

    @classmethod
    def joined(cls, parts: "list[Compared]") -> "Compared":
        where = [name for part in parts for name in part.where]
        arrays = [(part.error, part.bar, part.allowed) for part in parts]
        return cls(where, *(np.concatenate(x) for x in zip(*arrays, strict=True)))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the comparison of one model has found; `status` of the run."""

    problem: Problem
    status: str
    successful: bool
    numbers: Compared
    stages: Compared

    def failures(self) -> list[str]:
        """One line for the worst number of every leaf, and one for each stage time."""
        lines = []
        for compared in (self.numbers, self.stages):
            worst: dict[str, int] = {}
            excess = compared.error / (compared.bar + compared.allowed + 1e-300)
            for i in np.flatnonzero(compared.outside):
                name = compared.where[i].split(" at ")[0]
                if name not in worst or excess[i] > excess[worst[name]]:
                    worst[name] = int(i)
            lines += [
                f"{self.problem}: {compared.where[i]}, error {compared.error[i]:.2e}, bar "
                f"{compared.bar[i]:.2e}, reference ± {compared.allowed[i]:.1e}"
                for i in worst.values()
            ]
        return lines


def examine(p: Problem) -> Outcome:
    """Simulate the model and compare it with the reference."""
    return compare(p, simulated(p))


def simulated(p: Problem) -> gflow.Trajectory:
    """The run of gflow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status is looked at
        return gflow.simulate(model_of(p), Loss.of(p), t1=p.t1, rtol=p.rtol, decay=p.decay)


def compare(p: Problem, run: gflow.Trajectory) -> Outcome:
    """What a run says of a model beside what the reference says."""
    references = Reference(p, 3e-13), Reference(p, 1e-11)
    rows = np.unique(np.linspace(0, len(run.t) - 1, TIMES).astype(int))
    fine, coarse = ([reference(t) for t in run.t[rows]] for reference in references)
    sizes = [references[0].magnitudes(t) for t in run.t[rows]]
    parts = []
    for name in ("loss", *run.leaves):
        got = run.loss if name == "loss" else run.observables[name]
        right, second, size = (np.array([at[name] for at in x]) for x in (fine, coarse, sizes))
        spread = ndimage.maximum_filter1d(np.abs(right - second), 5, axis=0, mode="nearest")
        index = [*np.ndindex(right.shape[1:])]
        parts.append(
            Compared(
                [f"{name}{list(i) or ''} at t = {float(t)!r}" for t in run.t[rows] for i in index],
                np.abs(got[rows] - right).ravel(),
                np.asarray(run.error[name])[rows].ravel(),
                (spread + ROUNDING * np.abs(size)).ravel(),
            )
        )
    return Outcome(p, run.status, run.successful, Compared.joined(parts), _stages(run, references))


def _stages(run: gflow.Trajectory, references: tuple[Reference, Reference]) -> Compared:
    found = [stage for stage in run.stages() if stage.level is not None]
    where, errors, allowed = [], [], []
    for stage in found:
        width = max(stage.error, 1e-12 * stage.t)
        times = [reference.crossing(stage.level, stage.t, width) for reference in references]
        where.append(f"stage {stage.label or stage.level} at t = {stage.t!r}")
        if None in times:
            errors.append(math.inf)
            allowed.append(0.0)
        else:
            errors.append(abs(stage.t - times[0]))
            allowed.append(abs(times[0] - times[1]) + ROUNDING * stage.t)
    bars = [stage.error for stage in found]
    return Compared(where, *(np.array(x, float) for x in (errors, bars, allowed)))


def summary(outcomes: list[Outcome]) -> str:
    """The table of a campaign."""
    lines = [f"{len(outcomes)} models; {sum(o.successful for o in outcomes)} ran to their end"]
    for title, kind in (("weights and losses", "numbers"), ("stage times", "stages")):
        both = Compared.joined([getattr(o, kind) for o in outcomes])
        line = f"{title}: {len(both.error)} compared, {int(np.sum(both.outside))} outside their bar"
        if both.ratio.size:
            middle, high = np.quantile(both.ratio, [0.5, 0.9])
            line += f"; bar/error of {both.ratio.size}: median {middle:.3g}, 90 % {high:.3g}"
        lines.append(line)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first model")
    options = parser.parse_args(arguments)
    outcomes = []
    for seed in range(options.seed, options.seed + options.count):
        outcome = examine(draw(seed))
        outcomes.append(outcome)
        for line in outcome.failures():
            print(line, flush=True)
        if not outcome.successful:
            print(f"{outcome.problem}: {outcome.status}", flush=True)
    print(summary(outcomes))
    return int(any(o.numbers.outside.any() or o.stages.outside.any() for o in outcomes))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(main())
