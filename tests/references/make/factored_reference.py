"""Half-jump times of a dense balanced network at 1000 digits: writes factored_reference.json.

W' = (G-flow of) ½‖W − Σ‖² with W = A Bᵀ, AᵀA = BᵀB: Z = [B; A] solves a Riccati equation with

    ZZᵀ = P (I + K)⁻¹ Pᵀ,  P = e^{Ft} Z₀,  K = Z₀ᵀ F⁻¹ (e^{2Ft} − I)/2 Z₀,  F = [[0, Σᵀ], [Σ, 0]].

Run with `python tests/references/make/factored_reference.py`; needs mpmath and numpy.
"""

import json
from pathlib import Path

import mpmath as mp
import numpy as np

mp.mp.dps = 1000
SIZES = (3.0, 2.0, 1.5, 1.2, 1.0)
EXPONENTS = (6, 20, 60, 100)


def problem():
    """Target and O(1) balanced factors, with sgn det A Bᵀ = sgn det Σ."""
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(5)]
    target = bases[0] @ np.diag(SIZES) @ bases[1].T
    scale = np.diag(rng.uniform(0.5, 1.5, 5))
    left = bases[2] @ scale @ bases[4].T
    right = bases[3] @ scale @ bases[4].T
    if np.linalg.det(left @ right.T) * np.linalg.det(target) < 0:
        reflect = np.eye(5) - 2.0 * np.outer(bases[2][:, 0], bases[2][:, 0])
        left = reflect @ left
    return target, left, right


def orthogonal_part(x):
    """The polar factor of x at full precision, by Newton's iteration."""
    for _ in range(60):
        x = (x + (x**-1).T) / 2
    return x


def main():
    target, left, right = problem()
    sigma = mp.matrix(target.tolist())
    a = mp.matrix(left.tolist())
    # exactly balanced: B = (polar factor of A Bᵀ)ᵀ A up to rounding of the float64 factors
    b = orthogonal_part(a * mp.matrix(right.tolist()) ** -1).T * a
    zero = mp.zeros(5)
    f = mp.matrix(10)
    f[:5, 5:], f[5:, :5], f[:5, :5], f[5:, 5:] = sigma.T, sigma, zero, zero
    values, basis = mp.eigsy(f)
    start = mp.matrix(10, 5)
    start[:5, :], start[5:, :] = b, a
    moved = basis.T * start

    def product(alpha, t):
        p = mp.diag([mp.exp(v * t) for v in values]) * moved * alpha
        k = mp.diag([mp.expm1(2 * v * t) / (2 * v) for v in values])
        k = alpha**2 * moved.T * k * moved
        z = basis * p
        return (z * (mp.eye(5) + k) ** -1 * z.T)[5:, :5]

    sizes = sorted((mp.mpf(x) for x in mp.svd_r(sigma, compute_uv=False)), reverse=True)
    losses = [sum(x**2 for x in sizes[k:]) / 2 for k in range(6)]
    out = {}
    for exponent in EXPONENTS:
        alpha, times = mp.mpf(10) ** -exponent, []
        for k, size in enumerate(sizes):
            middle = (losses[k] + losses[k + 1]) / 2

            def over(t, alpha=alpha, middle=middle):
                rest = product(alpha, t) - sigma
                return sum(x**2 for x in rest) / 2 - middle

            guess = mp.log(size / alpha**2) / (2 * size)
            low, high = guess * 0.9 - 1, guess * 1.1 + 1
            for _ in range(110):
                mid = (low + high) / 2
                low, high = (mid, high) if over(mid) > 0 else (low, mid)
            times.append(mp.nstr(low, 25))
        out[str(exponent)] = times
        print(exponent, times)
    path = Path(__file__).parents[1] / "factored_reference.json"
    record = {"target": target.tolist(), "left": left.tolist(), "right": right.tolist()}
    record |= {"losses": [mp.nstr(x, 20) for x in losses], "times": out}
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
