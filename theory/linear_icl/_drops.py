r"""Which separate head learns which eigenvector, and when: clocks, and their matched offsets."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .._arguments import Numbers
from ._clocks import Heads, at_time, blow_up, checked_heads
from ._one_head import until
from ._passing import turn, turned
from ._problem import Problem, problem

#: λ²κ(T − t) where the loss is half-way between two plateaus, (1 − x³)² = ½.
HALF = until((1.0 - np.sqrt(0.5)) ** (1.0 / 3.0))


class Drops(NamedTuple):
    """When the loss is half-way down each drop, and the head that makes it (−1: none, at ∞)."""

    times: Float[np.ndarray, " D"]
    heads: Int[np.ndarray, " D"]


class Course(NamedTuple):
    """`Drops` with the direction of each, its 1/(λ²κ), and the share ρ of others in its head."""

    times: Float[np.ndarray, " D"]
    heads: Int[np.ndarray, " D"]
    directions: Int[np.ndarray, " D"]
    units: Float[np.ndarray, " D"]
    shares: Float[np.ndarray, " D"]


def head_times(v: Numbers, k: Numbers, q: Numbers, eigenvalues: Numbers) -> Float[np.ndarray, " H"]:
    r"""Blow-up time T of every head while nothing is learned yet: the first plateau.

        v' = ⟨K, Λ²Q⟩,   K' = v Λ²Q,   Q' = v Λ²K

    which in s = ∫v dt is K = K₀ cosh Λ²s + Q₀ sinh Λ²s, Q likewise, v² = v₀² + ‖K‖² − ‖K₀‖², and
    t = ∫ds/v. A start of size ε takes T ∝ 1/ε; the head with the smallest T makes the first drop,
    half-way at T − 1.25339/(λ₁²κ₁) (`drops`).

    **Arguments:** `v`: (H,); `k`, `q`: (H, D), or (H, D, R) for heads of rank R, in the eigenbasis
    of the covariance; `eigenvalues`: (D,), any order. Sizes down to 1e-300. Clock:
    θ' = −½ ∂E(y − ŷ)²/∂θ (τ = 1), the flow time of the "half_mean" of
    `gflow.objectives.InContextRegression`, twice that of "mean".

    **Returns:** T, (H,), to 1e-12, and to f²·1e-13 of a head that first shrinks by a factor f; ∞
    for one that never leaves: all of it zero, or on its way into zero (it shrinks 10⁵ times).

    **Raises:** ValueError for other shapes, R > D, negative eigenvalues, float32.
    **Regime:** weights much smaller than at the end. **Source:** 2501.16265, section 4 and 5.

    ```python
    head_times(v, k, q, [0.4, 0.3, 0.2, 0.1])       # those of 10v, 10k, 10q are a tenth
    ```
    """
    found = problem(eigenvalues, 1)
    return blow_up(checked_heads(v, k, q, found.eigenvalues.size), found.force)


def drops(
    v: Numbers, k: Numbers, q: Numbers, eigenvalues: Numbers, context: float, *, noise: float = 0.0
) -> Drops:
    r"""(times, heads) of all D half-drops of separate heads of rank one from a small start.

    On every plateau the dormant heads run by their own clocks (`head_times`), with Λ² restricted
    to what is not learned; the first to arrive, at T_d, learns the largest eigenvalue left, and
    the loss is half-way at T_d − 1.25339/(λ_d²κ_d), κ_d³ = 1/(λ_d(1 + (1 + tr Λ/λ_d)/N)). The
    learned direction acts on the others until T_d − 1/(λ_d²κ_d), which is ∫(1 − x³)dt over the
    orbit of the head that learns it: without this offset times do not converge. That head also
    has a share ρ = O(ε^{1−λ_j²/λ_d²}) of the directions j to come, by which it turns the others
    before it loses it: included to first order.

    **Arguments:** as `head_times`, of rank one; `context` N; `noise` σ² of the labels. Clock:
    θ' = −½ ∂E(y − ŷ)²/∂θ (τ = 1), the flow time of the "half_mean" objective.

    **Returns:** a named tuple (times, heads), each (D,), in the order in which things happen,
    which is that of decreasing eigenvalue. Where heads have run out (H < D), and for an eigenvalue
    of 0, the time is ∞ and the head −1.

    **Raises:** ValueError where the order is not determined: equal eigenvalues; two heads whose T
    are within 1/(λ²κ) of each other, which then learn one direction together and leave the plateau
    long before the rule says; a start that is not small; no head with a component along the next
    direction. For heads of rank R > 1, which go on learning, and as `head_times`.

    **Regime:** ε → 0 at fixed directions. What is left is O(ρ²) and vanishes, about as fast as ε
    (without the turns it is O(ρ)); eigenvalues near each other need a smaller ε, ρ well below 1.
    **Source:** 2501.16265, eqs. 19–21; clocks, offsets and turns are of this package.

    ```python
    times, heads = drops(v, k, q, [0.4, 0.3, 0.2, 0.1], 31)
    ```
    """
    return Drops(*course(v, k, q, problem(eigenvalues, context, noise))[:2])


def course(v: Numbers, k: Numbers, q: Numbers, found: Problem, turns: bool = True) -> Course:
    """`drops` with what decides them; without `turns`, and shares, to leading order.

    **Raises:** ValueError as `drops`.
    """
    d = found.eigenvalues.size
    heads = checked_heads(v, k, q, d)
    _check(heads, found)
    order = np.argsort(-found.eigenvalues, kind="stable")
    kappa = np.cbrt(found.optimum[order])
    with np.errstate(divide="ignore"):
        units = 1.0 / (found.force[order] * kappa)
    times, made, shares = np.full(d, np.inf), np.full(d, -1), np.zeros(d)
    alive, force, now = np.ones(heads.v.size, bool), found.force.copy(), 0.0
    learnable = int(np.count_nonzero(force))
    for m in range(min(heads.v.size, learnable)):
        direction, unit = int(order[m]), float(units[m])
        late = np.full(alive.size, np.inf)
        _check_components(heads, np.flatnonzero(alive), direction)
        late[alive] = now + blow_up(_taken(heads, np.flatnonzero(alive)), force)
        first = int(np.argmin(late))
        if not np.isfinite(late[first]):
            break
        _check_margin(m, first, late, unit, now)
        times[m], made[m], alive[first] = late[first] - HALF * unit, first, False
        if m + 1 == learnable or not np.any(alive):
            break
        one, rest = _taken(heads, np.array([first])), _taken(heads, np.flatnonzero(alive))
        acted = float(late[first]) - now - unit
        if turns:
            passed = turn(one, force, found, direction, float(late[first]) - now, unit)
            acted, shares[m] = passed.acted, passed.share
            rest = turned(at_time(rest, force, acted), passed, direction)
        else:
            rest = at_time(rest, force, acted)
        heads.v[alive], heads.k[alive], heads.q[alive] = rest.v, rest.k, rest.q
        now, force[direction] = now + acted, 0.0
    return Course(times, made, order, units, shares)


def _taken(heads: Heads, rows: np.ndarray) -> Heads:
    return Heads(heads.v[rows], heads.k[rows], heads.q[rows])


def _check(heads: Heads, found: Problem) -> None:
    if heads.k.shape[2] > 1:
        raise ValueError(
            f"k and q are of rank R = {heads.k.shape[2]}: a head of rank R goes on to learn R "
            "directions, at an exponential pace that has no closed rule. The first drop is that of "
            "head_times; the rest by gflow.simulate."
        )
    lam = np.sort(found.eigenvalues)[::-1]
    tied = np.flatnonzero((lam[1:] > 0) & (lam[:-1] - lam[1:] <= 1e-9 * lam[:-1]))
    if tied.size:
        raise ValueError(
            f"Two eigenvalues are {lam[tied[0]]:.6g}: which of their directions is learned first "
            "is not determined by them (the losses are: theory.linear_icl.plateaus). Give "
            "eigenvalues that differ."
        )


def _check_components(heads: Heads, rows: np.ndarray, direction: int) -> None:
    lacking = [
        int(i) for i in rows
        if not np.any(heads.k[i, direction]) and not np.any(heads.q[i, direction])
        and (np.any(heads.k[i]) or np.any(heads.q[i]))
    ]  # fmt: skip
    if lacking:
        raise ValueError(
            f"Head {lacking[0]} has no component along direction {direction}, the next to be "
            "learned, and would learn another one: the rule is for starts with all components."
        )


def _check_margin(m: int, first: int, late: np.ndarray, unit: float, now: float) -> None:
    others = np.delete(late, first)
    margin = float(np.min(others, initial=np.inf)) - late[first]
    if margin < unit:
        second = int(np.argsort(late)[1])
        raise ValueError(
            f"Heads {first} and {second} would make drop {m + 1} at T = {late[first]:.8g} and "
            f"{late[second]:.8g}, within 1/(λ²κ) = {unit:.4g} of each other: both become live in "
            "one direction, and the next drop comes much earlier than by the rule. Follow this "
            "start with gflow.simulate, or take a smaller or another one."
        )
    if late[first] - 2.0 * unit < now:
        raise ValueError(
            f"Drop {m + 1} would come {late[first] - now:.4g} after the last one, and takes "
            f"1/(λ²κ) = {unit:.4g} itself: the start is not small, and nothing is told about it "
            "here. Use weights much below κ, or gflow.simulate."
        )
