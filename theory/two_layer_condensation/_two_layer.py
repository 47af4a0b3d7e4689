r"""Condensation of a two-layer network from small weights: f(x) = Σ_j a_j σ(w_j·x).

σ(z) ≈ c z^p near 0: p = 1 for tanh, 2 for z·tanh z, 3 for z²·tanh z. While all weights are small
neurons do not see one another: with e_i = −∂ℓ/∂f at f = 0 (y_i for ½(f − y)² and for e^{−yf}),

    h(w) = (c/n) Σ_i e_i (w·x_i)^p,   a' = h(w),   w' = a∇h(w),   ‖w‖² − p a² constant,

so that w/‖w‖ climbs h on the sphere where a > 0 and descends it where a < 0. For p = 1 this is
linear and takes a time log(1/ε) from size ε; for p ≥ 2 it ends in a blow-up at ε^{−(p−1)}.

Papers: Zhou, Zhou, Jin, Luo, Zhang, Xu, NeurIPS 2022 (at most 2p orientations); Luo, Xu, Ma,
Zhang, JMLR 2021 (which scalings condense).
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.integrate import solve_ivp

from .._arguments import Numbers, real_array, times
from ._circle_forms import binary_form, critical_angles, on_circle

#: A neuron that has not escaped by this time, in the clock of `two_layer_escapes`, does not escape.
PATIENCE = 1e4
#: Nor does one whose ‖w‖ has fallen to this share of ρ.
FADED = 1e-10


class LinearCourse(NamedTuple):
    """`outer` a, `inner` w and `defect` 1 − |cos(w, g)|, free of cancellation, at all times."""

    outer: Float[np.ndarray, "*t m"]
    inner: Float[np.ndarray, "*t m d"]
    defect: Float[np.ndarray, "*t m"]


class Orientations(NamedTuple):
    """Critical angles of h on the circle, ascending in [0, 2π): see `orientations`.

    `value` and `curvature`: h and its second derivative there. `attracts`: +1 where neurons with
    a > 0 condense (a maximum, h > 0), −1 where those with a < 0 do (a minimum, h < 0), else 0.
    """

    angle: Float[np.ndarray, " k"]
    value: Float[np.ndarray, " k"]
    curvature: Float[np.ndarray, " k"]
    attracts: Int[np.ndarray, " k"]


class Escapes(NamedTuple):
    """When and where each neuron reaches its level: see `two_layer_escapes`; NaN if it dies out."""

    time: Float[np.ndarray, " m"]
    angle: Float[np.ndarray, " m"]
    sign: Float[np.ndarray, " m"]


def force(X: Numbers, e: Numbers) -> Float[np.ndarray, " d"]:
    """g = (1/n) Σ e_i x_i, of `X` (n, d) and `e` (n,): all w turn to ±g where p = 1.

    ```python
    force(X, y)                     # squared or exponential loss
    ```
    """
    x, e = _data(X, e)
    return e @ x / len(e)


def linear_course(a0: Numbers, W0: Numbers, g: Numbers, t: Numbers) -> LinearCourse:
    r"""The neurons for p = 1, σ'(0) = 1, with w∥ = w·g/‖g‖ and w⊥ the rest:

        (a ± w∥)(t) = (a ± w∥)(0) e^{±‖g‖t},   w⊥(t) = w⊥(0)
        1 − |cos(w, g)| ≈ 2‖w⊥‖²/(a + w∥)²(0) · e^{−2‖g‖t}

    **Arguments:** `a0`: (m,), `W0`: (m, d), neurons as rows; `g`: (d,), see `force`; finite flow
    times t ≥ 0 of any shape. **Returns:** a `LinearCourse` of shapes t.shape + (m,) and (m, d).
    **Raises:** ValueError for shapes, float32, data that are not finite, t < 0, g = 0.
    **Regime:** weights w with w³ ≪ ε: the relative error of 1 − |cos| is of order w³/ε.
    **Source:** Zhou et al. 2022, Theorem 1 (direction); the course is derived.

    ```python
    linear_course(a, W, force(X, y), np.linspace(0, 10, 50)).defect
    ```
    """
    a, w = _neurons(a0, W0)
    g, t = real_array(g, "g"), times(t)
    rate = float(np.linalg.norm(g))
    if g.shape != w.shape[1:] or rate == 0.0 or not np.all(np.isfinite(t)):
        raise ValueError(
            f"g has shape {g.shape}, W0 {w.shape}, ‖g‖ = {rate:g}: g must be a vector of the "
            "dimension of W0's rows, not 0, and the times finite."
        )
    unit = g / rate
    along = w @ unit
    rest = w - along[:, None] * unit
    grow = np.exp(rate * t)[..., None]
    plus, minus = 0.5 * (a + along) * grow, 0.5 * (a - along) / grow
    parallel = plus - minus
    inner = parallel[..., None] * unit + rest
    across = np.linalg.norm(rest, axis=-1)
    length = np.hypot(parallel, across)
    # across²/(…) in place of 1 − |parallel|/length, which rounds
    share = np.divide(across, length, out=np.zeros_like(length), where=length > 0)
    defect = share**2 * length / np.where(length > 0, length + np.abs(parallel), 1.0)
    return LinearCourse(plus + minus, inner, defect)


def linear_escape(a0: Numbers, W0: Numbers, g: Numbers, level: float) -> float:
    r"""The flow time at which √Σ a_j² = level, for p = 1: (1/‖g‖) ln(2·level/‖(a + w∥)(0)‖) and
    corrections of order ε², all included.

    From weights of size ε the slope ∂t/∂ln(1/ε) is 1/‖g‖. **Arguments, regime:** `linear_course`.
    **Raises:** ValueError also for a level that the start exceeds, or a + w∥ = 0.

    ```python
    linear_escape(1e-6 * a, 1e-6 * W, g, 1e-2)
    ```
    """
    start = linear_course(a0, W0, g, 0.0)
    g = real_array(g, "g")
    rate = float(np.linalg.norm(g))
    along = start.inner @ g / rate
    plus, minus = (start.outer + s * along for s in (1.0, -1.0))
    # ¼‖plus‖² z² + (½ plus·minus − level²) z + ¼‖minus‖² = 0 for z = e^{2‖g‖t}
    grow, mixed, fall = (float(np.sum(x)) for x in (plus**2, plus * minus, minus**2))
    middle = 2 * level**2 - mixed
    if not (math.isfinite(level) and level**2 > float(np.sum(start.outer**2)) and grow > 0):
        raise ValueError(
            f"level = {level}: it must be finite and above √Σa² = "
            f"{np.linalg.norm(start.outer):g} at the start, where a + w·g/‖g‖ must not be 0."
        )
    return math.log((middle + math.sqrt(middle**2 - grow * fall)) / grow) / (2 * rate)


def orientations(X: Numbers, e: Numbers, p: int, coefficient: float = 1.0) -> Orientations:
    r"""Where neurons with two-dimensional inputs can condense: at most 2p angles.

    h(cos φ, sin φ) is a trigonometric polynomial; with t = tan φ its derivative is cos^p φ · q(t),
    q of degree ≤ p, and every real root t (∞ if the degree is lower) gives two angles. How many
    real roots there are is counted exactly, by Sturm's theorem in rational arithmetic.

    A neuron that grows to size w from ε is off its angle by (w/ε)^{−κ}, κ = |curvature|/(p|h|).

    **Arguments:** `X`: (n, 2), with a column of ones if there is a bias; `e`: (n,); `p` ≥ 1, the
    multiplicity of σ, and its `coefficient` c. **Returns:** an `Orientations`.
    **Raises:** ValueError for other shapes, p < 1, and h that is constant on the circle.
    **Source:** Zhou et al. 2022 (bound 2p); the roots and κ are derived.

    ```python
    orientations(X, y, 2).angle
    ```
    """
    x, e = _plane(X, e)
    terms = binary_form(x, e, p, coefficient)
    angle = critical_angles(terms)
    value, _, curvature = on_circle(terms, angle)
    attracts = np.where(value * curvature < 0, np.sign(value), 0.0).astype(int)
    return Orientations(angle, value, curvature, attracts)


def two_layer_escapes(
    a0: Numbers, W0: Numbers, X: Numbers, e: Numbers, p: int, level: float = math.inf,
    coefficient: float = 1.0,
) -> Escapes:  # fmt: skip
    r"""When each neuron reaches ρ = √(p a² + ‖w‖²) = level, and its angle there; 2-D inputs, p ≥ 2.

    With √p a = ρ sin θ, w = ρ cos θ (cos φ, sin φ), H(φ) = h(cos φ, sin φ) and dτ = ρ^{p−1} dt,

        θ' = √p cos^{p−1}θ cos 2θ H,   (ln ρ)' = √p cos^{p−1}θ sin 2θ H,
        φ' = sin θ cos^{p−2}θ H'/√p

    where ε does not appear: weights ε(a₀, W₀) take the same path and blow up at ε^{−(p−1)}T, at
    one of the `orientations`. Neurons differ in T, so that at the first escape the others are
    still on their way. One with a² > ‖w‖²/p on the wrong side of h may shrink to w = 0.

    **Arguments:** `a0`: (m,), `W0`: (m, 2); `X`, `e`, `p`, `coefficient`: as in `orientations`;
    `level`: ρ, by default ∞: the blow-up. **Returns:** `time` (flow time), `angle` in [0, 2π),
    `sign` of a. **Raises:** ValueError for shapes, p < 2, neurons that start above the level.
    **Regime:** f ≪ 1 for all neurons together, level ≪ 1; relative error of order level^{p+1}.
    **Source:** derived for Zhou et al. 2022.

    ```python
    two_layer_escapes(1e-4 * a, 1e-4 * W, X, y, 2).time
    ```
    """
    a, w = _neurons(a0, W0)
    x, e = _plane(X, e)
    if w.shape[1] != 2 or p < 2:
        raise ValueError(
            f"W0 has shape {w.shape} and p = {p}: this is for rows of dimension 2 and p ≥ 2; for "
            "p = 1 linear_course is exact in any dimension."
        )
    rho = np.hypot(math.sqrt(p) * a, np.linalg.norm(w, axis=1))
    if not (np.all(rho > 0) and np.all(rho < level)):
        raise ValueError(f"level = {level}: it must be above ρ of every neuron, and ρ > 0.")
    terms = binary_form(x, e, p, coefficient)
    scale = float(np.max(np.abs(terms)))
    if scale == 0.0:
        raise ValueError("h = 0: no neuron moves at this order.")
    found = [_escape(*neuron, terms / scale, p, level) for neuron in zip(a, w, rho, strict=True)]
    time, angle, sign = np.array(found).T
    return Escapes(time / scale, angle, sign)


def _escape(a, w, rho, terms, p, level) -> tuple[float, float, float]:
    """(time, angle, sign of a) at the level, in the clock where the largest term of h is 1."""
    root = math.sqrt(p)
    # beyond this growth the time left is below rounding
    target = min(math.log(level / rho), 40.0 / (p - 1)) if level < math.inf else 40.0 / (p - 1)

    def field(_, y):
        theta, phi, growth, _ = y
        value, slope, _ = on_circle(terms, phi)
        sin, cos = math.sin(theta), math.cos(theta)
        pull = root * cos ** (p - 1) * value
        turn = sin * cos ** (p - 2) * slope / root
        return [pull * math.cos(2 * theta), turn, 2 * sin * cos * pull,
                math.exp(-(p - 1) * growth)]  # fmt: skip

    def grown(_, y):
        return y[2] - target

    def faded(_, y):
        return math.cos(y[0]) - FADED

    grown.terminal = faded.terminal = True
    grown.direction = 1.0
    start = [math.atan2(root * a, float(np.linalg.norm(w))), math.atan2(w[1], w[0]), 0.0, 0.0]
    path = solve_ivp(
        field,
        (0.0, PATIENCE),
        start,
        method="DOP853",
        rtol=1e-11,
        atol=1e-13,
        events=[grown, faded],
    )
    if not path.t_events[0].size:
        return math.nan, math.nan, math.nan
    theta, phi, _, elapsed = path.y_events[0][0]
    return rho ** (1 - p) * elapsed, phi % (2 * math.pi), math.copysign(1.0, math.sin(theta))


def _data(x, e) -> tuple[np.ndarray, np.ndarray]:
    x, e = real_array(x, "X"), real_array(e, "e")
    if not (x.ndim == 2 and x.size and e.shape == x.shape[:1]):
        raise ValueError(f"X has shape {x.shape} and e {e.shape}: they must be (n, d) and (n,).")
    return x, e


def _plane(x, e) -> tuple[np.ndarray, np.ndarray]:
    x, e = _data(x, e)
    if x.shape[1] != 2:
        raise ValueError(
            f"X has shape {x.shape}: the critical angles are those of inputs in two dimensions, "
            "(n, 2)."
        )
    return x, e


def _neurons(a, w) -> tuple[np.ndarray, np.ndarray]:
    a, w = real_array(a, "a0"), real_array(w, "W0")
    if not (a.ndim == 1 and a.size and w.ndim == 2 and len(w) == len(a)):
        raise ValueError(
            f"a0 has shape {a.shape} and W0 {w.shape}: they must be (m,) and (m, d), with a row "
            "for each neuron."
        )
    return a, w
