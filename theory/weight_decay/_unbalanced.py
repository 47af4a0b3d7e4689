r"""The time-course of two factors with G = AᵀA − BᵀB = g₀I ≠ 0 under decay.

G(t) = g₀e^{−2λt} enters the Riccati flow, which is then linear with coefficients that depend on
time: stepped by Taylor series until G is gone, and solved from there.
"""

import math

import numpy as np
from jaxtyping import Float

from gflow.internal import svd

from .. import exact_linear
from .._arguments import Numbers, times
from ..exact_linear import _riccati as riccati
from ._balanced import isotropic, one_decay, problem, speed

#: The steps of `unbalanced`: their number is about (time until G is gone) · ‖F‖ / _STEP.
_STEP, _MOST_STEPS, _CHUNK = 0.5, 200_000, 256
_ORDER = 24
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


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
    a, b, d = problem(left, right, target)
    rate, clock = one_decay(decay) / speed(loss), speed(loss)
    g0, t = isotropic(a, b), clock * times(t)
    if g0 == 0.0 or rate == 0.0:
        return exact_linear.two_layer(b.T, a, d, t, rate)
    m, n = d.shape
    u, s, vt = svd(d)
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
