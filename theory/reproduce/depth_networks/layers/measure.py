"""Residual, rank, correlation and entropies over depth, and what is claimed of them."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from gflow import depth

from ... import Interval, Report, interval, signed
from ..networks import Trained
from ..problem import Drawn, Network, Stacked
from ..settings import Settings

DONG = "Dong, Cordonnier, Loukas 2021, arXiv 2103.03404"
WHEN = ("start", "trained")


class Course(NamedTuple):
    """Over (seeds, inputs, layers and start): ln(‖R‖/‖X‖), effective rank, ln(1 − ρ).

    `entropies` (seeds, inputs, layers, heads) are over those of uniform attention. `common`,
    `directions` and `sizes`: the mean token, and R as a direction and a logarithm.
    """

    relative: Float[np.ndarray, "seeds inputs depths"]
    rank: Float[np.ndarray, "seeds inputs depths"]
    apart: Float[np.ndarray, "seeds inputs depths"]
    entropies: Float[np.ndarray, "seeds inputs layers heads"]
    common: Float[np.ndarray, "seeds inputs depths d"]
    directions: Float[np.ndarray, "seeds inputs depths tokens d"]
    sizes: Float[np.ndarray, "seeds inputs depths"]

    def over(self, values: Float[np.ndarray, "seeds inputs ..."]) -> Float[np.ndarray, "n ..."]:
        """What intervals are over: means of the seeds, or where there is one the inputs.

        An input whose R is below the rounding of a norm or an MLP is left out.
        """
        found = np.nanmean(values, axis=1) if len(values) > 1 else values[0]
        return found[np.isfinite(found)]


#: By variant, then by `WHEN`.
Courses = dict[str, dict[str, Course]]


def common(tokens: depth.Tokens, block: depth.Block) -> jax.Array:
    return tokens.common


def direction(tokens: depth.Tokens, block: depth.Block) -> jax.Array:
    return tokens.deviation


#: Beside what `depth.follow` always reads.
SEEN: dict = {
    "rank": depth.effective_rank, "entropies": depth.head_entropies, "common": common,
    "direction": direction,
}  # fmt: skip


def courses(network: Network, trained: Trained, settings: Settings) -> Courses:
    """The same held-out inputs through all networks, with the part that is left out and without."""
    found: Courses = {}
    for variant, pairs in trained.items():
        found[variant] = {
            when: _course(network, [getattr(pair, when) for pair in pairs], settings.draws)
            for when in WHEN
        }
    return found


def _course(network: Network, models: list[Stacked], draws: int) -> Course:
    runs = [
        depth.follow(
            depth.layers_of(model), Drawn(model, network.held_out.inputs), observables=SEEN,
            key=jax.random.key(0), draws=draws,
        ).observables
        for model in models
    ]  # fmt: skip
    seen = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    return Course(
        seen["log_residual"] - seen["log_norm"], seen["rank"], seen["log_apart"],
        seen["entropies"][:, :, :-1] / _uniform(network, seen["direction"].shape[-2]),
        seen["common"], seen["direction"], seen["log_residual"],
    )  # fmt: skip


def _uniform(network: Network, tokens: int) -> float:
    """Entropy of uniform attention: ln n, of causal one its mean over the queries."""
    each = np.log(np.arange(1, tokens + 1))
    return float(np.mean(each) if network.causal else each[-1])


def residuals(report: Report, network: Network, found: Courses) -> None:
    """At the start a residual keeps apart what attention without it makes equal."""
    whole = found["whole"]["start"]
    for variant in ("no-residual", "attention-alone"):
        other = found[variant]["start"]
        seeds = min(len(whole.relative), len(other.relative))
        ends = (c.relative[:seeds, :, -1] for c in (whole, other))
        difference = next(ends) - next(ends)
        signed(
            report, f"residual.{network.name}.{variant}", 1.0, interval(other.over(difference)),
            "ln(‖R‖/‖X‖) after the last layer of the whole less that of "
            f"{variant.replace('-', ' ')}, at the start", paper=DONG,
        )  # fmt: skip


def changes(report: Report, network: Network, found: Courses) -> dict[str, Interval]:
    """What training does to the effective rank after the last layer: measured, not predicted."""
    lines = [
        f"{network.name}: after the last layer ‖R‖/‖X‖, correlation and effective rank, before → "
        "after training, and the change of the rank with its 95 % interval"
    ]
    ranks = {}
    for variant, course in found.items():
        start, end = (course[when] for when in WHEN)
        ranks[variant] = change = interval(start.over(end.rank[..., -1] - start.rank[..., -1]))
        sizes, shares, means = (
            [np.nanmean(f(c)) for c in (start, end)] for f in (_size, _correlation, _rank)
        )
        known = np.abs(change.mean) > change.half
        word = ("lowered", "raised")[int(change.mean > 0)] if known else "undecided"
        lines.append(
            f"  {variant:<16} {sizes[0]:8.2g} → {sizes[1]:<8.2g} {shares[0]:.3f} → {shares[1]:.3f} "
            f"  {means[0]:5.2f} → {means[1]:5.2f}   {change.mean:+.2f} ± {change.half:.2f} {word}"
        )
    report.say(*lines)
    return ranks


def _size(course: Course) -> np.ndarray:
    return np.exp(course.relative[..., -1])


def _correlation(course: Course) -> np.ndarray:
    return -np.expm1(course.apart[..., -1])


def _rank(course: Course) -> np.ndarray:
    return course.rank[..., -1]


def entropies(report: Report, network: Network, found: Courses) -> None:
    """A table: mean over layers, heads and inputs, and the spread over heads and layers."""
    lines = [
        f"{network.name}: entropy of attention over that of uniform attention, mean ± standard "
        "deviation over heads and layers, before → after training"
    ]
    for variant, course in found.items():
        cells = []
        for when in WHEN:
            heads = np.nanmean(course[when].entropies, axis=1)
            cells.append(f"{np.mean(heads):.3f} ± {np.std(heads):.3f}")
        lines.append(f"  {variant:<16} {' → '.join(cells)}")
    report.say(*lines)
