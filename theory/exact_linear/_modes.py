r"""Linear networks whose modes do not mix: one scalar flow a mode, solved.

A mode of strength a (in the product) and target s, in L balanced layers, has
a' = L a^{2 − 2/L}(s − a): sigmoids for L = 2 (Saxe, McClelland, Ganguli 2014, 1312.6120).
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.optimize import elementwise

from .._arguments import Numbers, real_array, times


class AlignedMode(NamedTuple):
    """cd, c² and d²: the product of a mode and the squares of its strengths in W₁ and W₂."""

    product: Float[np.ndarray, "..."]
    first: Float[np.ndarray, "..."]
    second: Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class ModeStage:
    """One mode is learned: `time` at half its strength `s`, `loss` and `rank` after it."""

    time: float
    s: float
    loss: float
    rank: int


def aligned_mode(c0: Numbers, d0: Numbers, s: Numbers, t: Numbers) -> AlignedMode:
    r"""(cd, c², d²) of one mode with any imbalance: c' = d(s − cd), d' = c(s − cd).

    λ = d² − c² is conserved. With k = sqrt(s² + λ²/4) and the components A± of (c₀, d₀) along
    the eigenvectors of [[−λ/2, s], [s, λ/2]] of eigenvalue ±k,

        (c, d)(t) = (e^{kt}A₊v₊ + e^{−kt}A₋v₋)/D,
        D² = 1 + (e^{2kt} − 1)A₊²/2k + (1 − e^{−2kt})A₋²/2k.

    **Arguments:** strengths `c0` in W₁ and `d0` in W₂, target `s`, of any sign; flow time
    `t ≥ 0`, ∞ included. They broadcast. **Returns:** a named tuple (product, first, second).

    **Raises:** ValueError for t < 0, float32, data that are not finite.

    **Regime:** exact, for starts diagonal in the singular bases of Σ, two layers, no decay.
    **Source:** Saxe et al. 2014, appendix; Tarmoun et al. 2021; Domine et al. 2024.

    ```python
    aligned_mode(0.1, 0.3, 2.0, math.inf)     # cd = 2, d² − c² = 0.08
    ```
    """
    c, d = real_array(c0, "c0"), real_array(d0, "d0")
    c, d, s, t = np.broadcast_arrays(c, d, real_array(s, "s"), times(t))
    half = 0.5 * (d - c) * (d + c)
    k = np.hypot(s, half)
    a, b = np.where(half >= 0, s, k - half), np.where(half >= 0, k + half, s)
    norm = np.hypot(a, b)
    a, b = (np.where(norm > 0, x / np.where(norm > 0, norm, 1.0), np.sqrt(0.5)) for x in (a, b))
    up, down = a * c + b * d, b * c - a * d
    # numerator and denominator times e^{−kt}, or as they are where nothing grows
    with np.errstate(invalid="ignore"):
        x = np.where(k > 0, 2.0 * k * t, 0.0)
        decayed = np.exp(-x)
        integral = np.where(k > 0, -np.expm1(-x) / np.where(k > 0, 2.0 * k, 1.0), t)
        scale = np.where(up == 0, 1.0, decayed)
        denominator = scale + integral * (up**2 + scale * down**2)
        denominator = np.where((up == 0) & (down == 0), 1.0, denominator)
        shrunk = np.where(up == 0, np.exp(-0.5 * x), decayed)
        root = np.sqrt(denominator)
        c_t = (a * up + shrunk * b * down) / root
        d_t = (b * up - shrunk * a * down) / root
    still = t == 0
    c_t, d_t = np.where(still, c, c_t), np.where(still, d, d_t)
    return AlignedMode(c_t * d_t, c_t**2, d_t**2)


def mode_strength(a0: Numbers, s: Numbers, t: Numbers, depth: int = 2) -> Float[np.ndarray, "..."]:
    r"""Strength a(t) of a balanced, aligned mode in `depth` = L layers: a' = L a^{2−2/L}(s − a).

    L = 1: s + (a₀ − s)e^{−t}. L = 2: the sigmoid s/(1 + (s/a₀ − 1)e^{−2st}). L ≥ 3: `mode_time`,
    inverted to rounding.

    **Arguments:** `a0 ≥ 0`, target `s > 0`, flow time `t ≥ 0`, ∞ included; they broadcast. (A
    mode with a, s < 0 is the same one reflected; opposite signs: see `aligned_mode`.)

    **Raises:** ValueError for signs, depth < 1, float32, data that are not finite.
    **Source:** Saxe et al. 2014, eqs. for 3 and N_l layers; Saxe et al. 2019.

    ```python
    mode_strength(1e-3, [3.0, 1.0], 2.0)           # the stronger mode comes first
    ```
    """
    a0, s = _strengths(a0, s, depth)
    a0, s, t = np.broadcast_arrays(a0, s, times(t))
    if depth == 1:
        return np.asarray(a0 * np.exp(-t) - s * np.expm1(-t))
    moving = (a0 > 0) & (a0 != s) & (t > 0) & np.isfinite(t)
    arrived = np.where((a0 > 0) & np.isinf(t), s, a0)
    if depth == 2:
        with np.errstate(invalid="ignore"):
            decayed = np.exp(-2.0 * s * t)
            logistic = a0 / (a0 / s * -np.expm1(-2.0 * s * t) + decayed)
        return np.where(moving, logistic, arrived)
    return np.where(moving, _inverted(a0, s, t, depth, moving), arrived)


def mode_time(a0: Numbers, af: Numbers, s: Numbers, depth: int = 2) -> Float[np.ndarray, "..."]:
    r"""Flow time in which a mode of `mode_strength` goes from `a0` to `af`.

    L = 2: (1/2s) ln[a_f(s − a₀)/(a₀(s − a_f))]. L ≥ 3, with z = (a/s)^{1/L}:

        t = s^{2/L − 2} [ z₀^{2−L}/(L−2) − z_f^{2−L}/(L−2) + g(z_f) − g(z₀) ],
        g(z) = ∫₀^z x dx/(1 − x^L)

    **Raises:** ValueError where `af` is never reached: it must lie between `a0` and `s`.

    ```python
    mode_time(1e-6, 0.5, 1.0)                      # ½ ln(1e6 − 1)
    ```
    """
    a0, s = _strengths(a0, s, depth)
    a0, af, s = np.broadcast_arrays(a0, real_array(af, "af"), s)
    ahead = np.where(a0 <= s, (a0 <= af) & (af <= s), (s <= af) & (af <= a0))
    if not np.all(ahead & (a0 > 0) | (af == a0)):
        raise ValueError(
            f"af = {af} is never reached from a0 = {a0} > 0 with target s = {s}: af must lie "
            "between them, and a mode that starts at zero stays there."
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        if depth == 1:
            passed = np.log((a0 - s) / (af - s))
        elif depth == 2:
            passed = (np.log(af / a0) + np.log((s - a0) / (s - af))) / (2.0 * s)
        else:
            clocks = [_clock(*_depth_root(a, s, depth), depth) for a in (a0, af)]
            passed = s ** (2.0 / depth - 2.0) * (clocks[1] - clocks[0])
    return np.where(af == a0, 0.0, np.where(af == s, np.inf, passed))


def mode_stages(s: Numbers, a0: Numbers, depth: int = 2) -> list[ModeStage]:
    """The staircase of an aligned start: when each mode is half learned, and the loss after it.

    Plateau losses are ½Σs² over the modes not learned yet. Modes that start above s/2 count as
    learned at t = 0, those that start at zero never are.

    **Arguments:** singular values `s > 0` of the target, strengths `a0` (one, or one a mode).

    ```python
    [(stage.time, stage.loss) for stage in mode_stages([3.0, 1.0], 1e-6)]
    ```
    """
    a0, s = np.broadcast_arrays(*_strengths(a0, s, depth))
    half = 0.5 * s
    with np.errstate(divide="ignore"):
        growing = (a0 > 0) & (a0 < half)
        reached = mode_time(np.where(growing, a0, half), half, s, depth)
    reached = np.where(a0 > 0, reached, np.inf).ravel()
    order = [k for k in np.argsort(reached, kind="stable") if np.isfinite(reached[k])]
    total, stages = float(np.sum(s**2)), []
    for rank, k in enumerate(order, 1):
        left = 0.5 * (total - float(np.sum(s.ravel()[order[:rank]] ** 2)))
        stages.append(ModeStage(float(reached[k]), float(s.ravel()[k]), max(left, 0.0), rank))
    return stages


def _strengths(a0, s, depth: int) -> tuple[np.ndarray, np.ndarray]:
    a0, s = real_array(a0, "a0"), real_array(s, "s")
    if depth < 1 or depth != int(depth):
        raise ValueError(f"depth = {depth}: the number of layers is 1, 2, 3, …")
    if np.any(s <= 0) or np.any(a0 < 0):
        raise ValueError(
            f"a0 = {a0}, s = {s}: give a0 ≥ 0 and s > 0. Reflect a mode with both negative; of "
            "opposite signs it never crosses zero when balanced (see aligned_mode)."
        )
    return a0, s


def _depth_root(a, s, depth: int):
    """z = (a/s)^{1/L} and z − 1, without cancellation near 1."""
    near = np.abs(a - s) < 0.5 * s
    log = np.where(near, np.log1p(np.where(near, a - s, 0.0) / s), np.log(a / s)) / depth
    return np.exp(log), np.expm1(log)


def _clock(z, beyond, depth: int):
    """∫dx/(x^{L−1}(1 − x^L)) up to z, L ≥ 3, with `beyond` = z − 1."""
    # −(1/L)Σ ω² log(1 − zω̄) over the L-th roots of unity; ω = 1 has the singularity
    with np.errstate(divide="ignore"):
        total = -np.log(np.abs(beyond)) / depth
    for k in range(1, depth):
        root = np.exp(2j * np.pi * k / depth)
        total = total - np.real(root**2 * np.log(1.0 - z * np.conj(root))) / depth
    # the same for small z, where the sum cancels
    small = np.minimum(z, 0.5)
    series = sum(small ** (n * depth + 2) / (n * depth + 2) for n in range(1 + 54 // depth))
    tail = np.where(z < 0.5, series, total)
    return tail - z ** (2.0 - depth) / (depth - 2.0)


def _inverted(a0, s, t, depth: int, moving):
    """a(t) for L ≥ 3 by the root of the clock in y = logit z (below s) or −log(z − 1)."""
    below = a0 < s
    z0, beyond = _depth_root(np.where(moving, a0, 0.5 * s), s, depth)
    wanted = np.where(moving, s ** (2.0 - 2.0 / depth) * t, 1.0)

    def place(y, below):
        z = np.where(below, special.expit(y), 1.0 + np.exp(-y))
        return z, np.where(below, special.expit(-y), np.exp(-y))

    def late(y, z0, beyond0, wanted, below):
        z, gap = place(y, below)
        return (_clock(z, gap, depth) - _clock(z0, beyond0, depth)) - wanted

    start = np.where(below, np.log(z0) - np.log(np.abs(beyond)), -np.log(np.abs(beyond)))
    # log(1/|z − 1|)/L is the slowest part of the clock to grow
    end = np.maximum(start, 0.0) + depth * (wanted + 4.0) + 40.0
    found = elementwise.find_root(
        late, (start, end), args=(z0, beyond, wanted, np.where(moving, below, True))
    )
    z, _ = place(found.x, below)
    return s * z**depth
