r"""Two factors under weight decay towards a matrix D: the way there, solved.

    A' = −MB − λA,   B' = −MᵀA − λB,   M = ∇L(ABᵀ)

with W = ABᵀ, A: (m, r), B: (n, r), for L = ½‖W − D‖² (`loss="half"`, M = W − D) or
L = ‖W − D‖² (`loss="full"`, M = 2(W − D)). **They differ by a factor 2 in two places**: "full"
at decay λ and time t is exactly "half" at decay λ/2 and time 2t. So a singular value d of D
survives decay when d > λ ("half") or d > λ/2 ("full").

Papers: 2410.23819 (Kobayashi, Akram, von Oswald 2024; its Fig. 1 has loss="full"); the Riccati
flow as in `theory.exact_linear`.
"""

import difflib
import math

import numpy as np
from jaxtyping import Float

from . import exact_linear, riccati
from .checks import Numbers, real_array, times
from .linear_modes import aligned_mode, mode_time

#: How many times faster than ½‖W − D‖² a loss moves, and how many times less decay hurts it.
SPEEDS = {"half": 1.0, "full": 2.0}
#: The steps of `unbalanced`: their number is about (time until G is gone) · ‖F‖ / _STEP.
_STEP, _MOST_STEPS, _CHUNK = 0.5, 200_000, 256
_ORDER = 24
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def speed(loss: str) -> float:
    """1 for "half" (½‖W − D‖²), 2 for "full" (‖W − D‖²)."""
    if loss not in SPEEDS:
        near = difflib.get_close_matches(str(loss), SPEEDS, n=1, cutoff=0.4)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ValueError(
            f'loss = {loss!r}: write "half" for ½‖W − D‖² or "full" for ‖W − D‖². Thresholds '
            f"differ by a factor 2 between them.{hint}"
        )
    return SPEEDS[loss]


def decays(decay: Numbers) -> Float[np.ndarray, "..."]:
    """Decay rates: float64, finite, λ ≥ 0."""
    array = real_array(decay, "decay")
    if np.any(array < 0.0):
        raise ValueError(
            f"decay contains {array[array < 0.0].ravel()[0]}: λ of (λ/2)(‖A‖² + ‖B‖²) is ≥ 0."
        )
    return array


def one_decay(decay: Numbers) -> float:
    """`decays` for one number."""
    rate = decays(decay)
    if rate.ndim:
        raise ValueError(f"decay has shape {rate.shape}: give one number here.")
    return float(rate)


def factor_pair(left: Numbers, right: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """A: (..., m, r) and B: (..., n, r) as float64, or what is wrong with their shapes."""
    a, b = real_array(left, "left"), real_array(right, "right")
    fits = a.ndim >= 2 and b.ndim >= 2 and a.shape[-1] == b.shape[-1] and a.shape[-1] > 0
    if not (fits and a.shape[:-2] == b.shape[:-2]):
        raise ValueError(
            f"left has shape {a.shape} and right {b.shape}: they must be (..., m, r) and "
            "(..., n, r) with W = left @ right.T, that is, equal last (hidden) axes and equal "
            "leading axes. A weight stored as (r, m) enters transposed."
        )
    return a, b


def balanced_mode(
    s0: Numbers, d: Numbers, t: Numbers, decay: Numbers = 0.0, loss: str = "half"
) -> Float[np.ndarray, "..."]:
    r"""Singular value s(t) of W in a mode that is aligned and balanced, under decay.

    With κ = d − λ, s' = 2s(κ − s) and (loss="half")

        s(t) = κ / (1 + (κ/s₀ − 1)e^{−2κt});   s₀/(1 + 2s₀t) for the tie κ = 0;

    for κ < 0 the first form still holds and dies as e^{−2|κ|t}. loss="full": κ = d − λ/2 and
    the clock runs twice as fast.

    **Arguments:** `s0 ≥ 0`; `d` of any sign, the mode's value in D; flow time `t ≥ 0`, ∞
    included; `decay` λ ≥ 0. They broadcast.

    **Raises:** ValueError for signs, an unknown loss, float32, data that are not finite.
    **Regime:** exact, for starts diagonal in the singular bases of D with AᵀA = BᵀB. What
    becomes of d − λ is the mode of `theory.exact_linear.aligned_mode`.
    **Source:** the loss of 2410.23819, Fig. 1; Saxe et al. 2014 for λ = 0.

    ```python
    balanced_mode(0.1, 0.4, [1.0, math.inf], decay=0.4)      # a tie: 0.1/1.2, 0
    ```
    """
    start, kappa, clock = _mode(s0, d, decay, loss)
    root = np.sqrt(start)
    return np.asarray(aligned_mode(root, root, kappa, clock * times(t)).product)


def half_time(
    s0: Numbers, d: Numbers, decay: Numbers = 0.0, loss: str = "half"
) -> Float[np.ndarray, "..."]:
    r"""When `balanced_mode` is half way: at κ/2 if it grows, at s₀/2 if it dies (κ ≤ 0).

        κ > 0: ln(κ/s₀ − 1)/(2κ), 0 where it starts above κ/2, ∞ where it starts at 0
        κ < 0: ln(1 + |κ|/(|κ| + s₀))/(2|κ|);   κ = 0: 1/(2s₀)

    (loss="half"; with "full" κ = d − λ/2 and half the time.) Arguments and errors as for
    `balanced_mode`.

    ```python
    half_time(1e-6, 1.0, decay=0.25)          # ln(0.75e6 − 1)/1.5
    ```
    """
    start, kappa, clock = np.broadcast_arrays(*_mode(s0, d, decay, loss))
    grows, starts = kappa > 0, start > 0
    climbing = grows & starts & (start < 0.5 * kappa)
    target = np.where(grows, kappa, 1.0)
    with np.errstate(divide="ignore"):
        rise = mode_time(np.where(climbing, start, 0.5 * target), 0.5 * target, target)
        size = np.where(kappa < 0, -kappa, 1.0)
        death = np.where(kappa < 0, np.log1p(size / (size + start)) / (2.0 * size), 0.5 / start)
    return np.asarray(np.where(grows, np.where(starts, rise, np.inf), death) / clock)


def balanced(
    left: Numbers,
    right: Numbers,
    target: Numbers,
    decay: Numbers,
    t: Numbers,
    loss: str = "half",
) -> Float[np.ndarray, "*t m n"]:
    r"""W(t) = ABᵀ from any balanced start, AᵀA = BᵀB: any shapes, ranks and directions.

    It is `theory.exact_linear.two_layer` with W₁ = Bᵀ, W₂ = A: a Riccati flow of [B; A] with
    F = [[−λ, Dᵀ], [D, −λ]] (loss="half"; λ/2 and 2t for "full").

    **Arguments:** `left` A: (m, r), `right` B: (n, r), `target` D: (m, n), `decay` λ ≥ 0;
    `t ≥ 0` of any shape, ∞ included. **Returns:** t.shape + (m, n).

    **Raises:** ValueError for shapes that do not chain, AᵀA ≠ BᵀB, t or λ < 0, float32.
    **Regime:** exact. Starts with AᵀA − BᵀB = g₀I: see `unbalanced`.
    **Source:** Fukumizu 1998; Braun et al. 2022, with decay added.

    ```python
    balanced(a, b, target, 0.1, math.inf)     # soft_threshold(target, 0.1, rank=r), mostly
    ```
    """
    a, b, d = _problem(left, right, target)
    rate, clock = one_decay(decay), speed(loss)
    g0 = _isotropic(a, b)
    if g0 != 0.0:
        raise ValueError(
            f"left.T @ left − right.T @ right = g₀I with g₀ = {g0:.6g}: the start is not "
            "balanced. Use theory.weight_decay.unbalanced, which takes any g₀."
        )
    return exact_linear.two_layer(b.T, a, d, clock * times(t), rate / clock)


def unbalanced(
    left: Numbers,
    right: Numbers,
    target: Numbers,
    decay: Numbers,
    t: Numbers,
    loss: str = "half",
) -> Float[np.ndarray, "*t m n"]:
    r"""W(t) = ABᵀ from a start with AᵀA − BᵀB = g₀I, which decays as g = g₀e^{−2λt}.

    With Q = [B; A] and (loss="half"; λ/2 and 2t for "full")

        F(t) = [[−(λ + g/2)I, Dᵀ], [D, −(λ − g/2)I]],   Φ' = FΦ, Φ(0) = I,
        QQᵀ(t) = P (I + ∫₀ᵗ PᵀP)⁻¹ Pᵀ,   P = ΦQ(0).

    Per singular value of D, Φ is a 2×2 linear ODE (Whittaker functions of g). It is stepped by
    its Taylor series, exact to rounding, and Q is renormalised after every step; once g has
    decayed to rounding the flow is that of `balanced`, to t = ∞.

    **Arguments, returns, errors:** as for `balanced`, with any g₀; g₀ > 0 needs r ≤ m, g₀ < 0
    r ≤ n. ValueError also where D is so many times faster than λ that more than 200 000 steps
    would be needed.

    **Regime:** exact for G(0) = g₀I only; a Gaussian start is not of this kind (for it, G(t)
    and the end are known: `imbalance`, `soft_threshold`).
    **Source:** derived from Domine et al. 2024 (2409.14623), where λ = 0.

    ```python
    unbalanced(a, b, target, 0.1, np.linspace(0, 30, 100))
    ```
    """
    a, b, d = _problem(left, right, target)
    rate, clock = one_decay(decay) / speed(loss), speed(loss)
    g0, t = _isotropic(a, b), clock * times(t)
    if g0 == 0.0 or rate == 0.0:
        return exact_linear.two_layer(b.T, a, d, t, rate)
    m, n = d.shape
    u, s, vt = np.linalg.svd(d)
    pairs = max(m, n)
    # rows of (VᵀB, UᵀA) by singular value; what one side lacks is a row of zeros
    q = np.zeros((pairs, 2, a.shape[1]))
    q[:n, 0], q[:m, 1] = vt @ b, u.T @ a
    s = np.concatenate([s, np.zeros(pairs - len(s))])

    flat = t.ravel()
    gone = max(math.log(abs(g0) / (4e-17 * rate)) / (2.0 * rate), 0.0)
    wanted = np.unique(np.concatenate([flat[flat < gone], [gone] if np.any(flat >= gone) else []]))
    found = _stepped(q, s, rate, g0, wanted)

    def stacked(q):
        return np.concatenate([vt.T @ q[:n, 0], u @ q[:m, 1]])

    out = np.zeros((flat.size, m, n))
    for k, time in enumerate(flat):
        if time < gone:
            x = stacked(found[float(time)])
            out[k] = x[n:] @ x[:n].T
    late = flat >= gone
    if np.any(late):
        flow = riccati.solve(*riccati.coupled_spectrum(d, 0.0, rate), stacked(found[gone]))
        x = flow.factor(flat[late] - gone)
        out[late] = x[:, n:] @ x[:, :n].mT
    out[flat == 0.0] = a @ b.T
    return out.reshape(*t.shape, m, n)


def _stepped(q, s, rate, g0, wanted) -> dict[float, np.ndarray]:
    """Q in the singular bases at each of the `wanted` times (sorted)."""
    starts, steps, counts = _plan(s, rate, g0, wanted)
    found, done = {}, 0
    eye = np.eye(q.shape[2])
    propagators = iter(())
    for end, count in zip(wanted, counts, strict=True):
        for k in range(done, count):
            if k % _CHUNK == 0:
                part = slice(k, k + _CHUNK)
                propagators = zip(
                    *_propagators(s, rate, g0, starts[part], steps[part]), strict=True
                )
            phi, root = next(propagators)
            r = np.linalg.qr(np.concatenate([eye, (root @ q).reshape(-1, q.shape[2])])).R
            q = np.linalg.solve(r.T, (phi @ q).reshape(-1, q.shape[2]).T).T.reshape(q.shape)
        found[float(end)], done = q, count
    return found


def _plan(s, rate, g0, wanted) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Start and length of the steps, and how many lie before each of the `wanted` times."""
    time, starts, steps, counts = 0.0, [], [], []
    for end in wanted:
        while time < end:
            size = rate + 0.5 * abs(g0) * math.exp(-2.0 * rate * time) + s[0]
            following = min(time + _STEP / size, float(end))
            starts.append(time)
            steps.append(following - time)
            time = following
            if len(steps) > _MOST_STEPS:
                raise ValueError(
                    f"decay = {rate:.3g} (for ½‖W − D‖²) is too slow beside the largest singular "
                    f"value {s[0]:.3g} of the target and g₀ = {g0:.3g}: reaching t = {end:.3g} "
                    f"takes more than {_MOST_STEPS} steps. Ask for earlier times, for "
                    "decay=0, or integrate with gflow.simulate."
                )
        counts.append(len(steps))
    return np.array(starts), np.array(steps), counts


def _propagators(s, rate, g0, start, step) -> tuple[np.ndarray, np.ndarray]:
    """Φ over each step and C with CᵀC = ∫ΦᵀΦ, both (steps, pairs, 2, 2)."""
    g = g0 * np.exp(-2.0 * rate * start)
    constant = np.zeros((len(s), 2, 2))
    constant[:, 0, 0] = constant[:, 1, 1] = -rate
    constant[:, 0, 1] = constant[:, 1, 0] = s
    skew = np.array([[-0.5], [0.5]])
    # coefficients in units of the step: of g(t), of Φ
    unit = step[:, None, None, None]
    pull = [g[:, None, None, None] * unit]
    for j in range(1, _ORDER):
        pull.append(pull[-1] * (-2.0 * rate * unit / j))
    phi = [np.broadcast_to(np.eye(2), (len(start), len(s), 2, 2))]
    for j in range(_ORDER):
        total = unit * (constant @ phi[j])
        for i in range(j + 1):
            total = total + pull[i] * (skew * phi[j - i])
        phi.append(total / (j + 1))

    def at(x):
        value = phi[-1]
        for term in phi[-2::-1]:
            value = value * x + term
        return value

    gram = sum(
        0.5 * w * at(x).mT @ at(x) for x, w in zip(0.5 * (1 + _NODES), _WEIGHTS, strict=True)
    )
    return at(1.0), np.linalg.cholesky(unit * gram).mT


def _mode(s0, d, decay, loss) -> tuple[np.ndarray, np.ndarray, float]:
    """s₀, κ and the clock of a mode of ½‖W − D‖²."""
    start, clock = real_array(s0, "s0"), speed(loss)
    if np.any(start < 0):
        raise ValueError(
            f"s0 contains {start[start < 0].ravel()[0]}: a balanced mode has s₀ ≥ 0. Change the "
            "sign of its singular vector, and of d."
        )
    return start, np.asarray(real_array(d, "d") - decays(decay) / clock), clock


def _problem(left, right, target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = factor_pair(left, right)
    d = real_array(target, "target")
    if not (a.ndim == 2 and d.shape == (a.shape[0], b.shape[0]) and d.size > 0):
        raise ValueError(
            f"left has shape {a.shape}, right {b.shape} and target {d.shape}: they must be "
            "(m, r), (n, r) and (m, n)."
        )
    return a, b, d


def _isotropic(a: np.ndarray, b: np.ndarray) -> float:
    """g₀ of AᵀA − BᵀB = g₀I; refuses any other start."""
    g = a.T @ a - b.T @ b
    size = float(np.sum(a**2) + np.sum(b**2))
    g0 = float(np.trace(g)) / g.shape[0]
    deviation = float(np.linalg.norm(g - g0 * np.eye(g.shape[0])))
    if deviation > exact_linear.BALANCE_TOLERANCE * size:
        raise ValueError(
            f"With G = left.T @ left − right.T @ right and g₀ = tr G/r = {g0:.6g}, ‖G − g₀I‖ = "
            f"{deviation:.3g}, where ‖A‖² + ‖B‖² = {size:.3g}: the time-course is known for "
            "G = g₀I only. Make such a start with theory.exact_linear.balanced_start "
            "(w1 = right.T, w2 = left), or integrate this one with gflow.simulate."
        )
    return 0.0 if abs(g0) <= exact_linear.BALANCE_TOLERANCE * size else g0
