"""Gradient flow of u and v at 50 digits: writes flow_reference.json beside this script.

    u' = v⊙g,  v' = u⊙g,  g = Xᵀ(y − X(u⊙v))

is integrated by its own Taylor series in mpmath, in the plain factors: nothing here knows
of logarithms, of u ± v or of the conserved u² − v². The right side is polynomial, so the
coefficients follow from each other by Cauchy products. Every run is made twice, with
series of order 30 and 40, which must agree to 35 digits.

    python tests/references/make/flow_reference.py          # some minutes
"""

import json
from pathlib import Path

import mpmath as mp

mp.mp.dps = 50

#: inputs, targets, factors A and C of u = αA, v = αC, and τ of the records.
PROBLEMS = {
    # 2607.12332: transitions at τ → 1, 4, 4 + 80/49; weight 0 switches off at the second.
    "zhao": {
        "inputs": [["1", "0.5", "0.7", "0"], ["0.5", "1", "0.1", "0.7"]],
        "targets": ["1", "0"],
        "u": ["1", "0.8", "-0.7", "0.6"],
        "v": ["0.3", "-0.2", "-0.4", "0.5"],
        "tau": ["0.5", "1", "1.5", "2.5", "3.5", "4", "4.5", "5", "5.5", "6.5", "9"],
    },
    # Weight 0 switches on positive, falls back to zero and switches on negative; weight 2
    # starts with |u + v| > |u − v|, on the positive side, and becomes negative.
    "signs": {
        "inputs": [["2", "0.9", "0"], ["0", "0.5", "0.1"], ["0", "0", "1"]],
        "targets": ["0.85", "0.55", "-1.2"],
        "u": ["1", "0.7", "1.1"],
        "v": ["0.4", "0.3", "0.2"],
        "tau": ["0.3", "0.7", "1", "1.5", "2.5", "3.5", "4", "5", "8", "12", "16", "24"],
    },
}
ALPHAS = ("1e-2", "1e-4", "1e-8")
#: Size of the last terms of a series that are left out.
TOLERANCE = mp.mpf("1e-47")


def product(a, b, k):
    """Coefficient k of the product of two power series."""
    return mp.fdot(a[: k + 1], b[k::-1] if k else [b[0]])


def series(u, v, H, b, order):
    """Taylor coefficients of u and v; H = XᵀX, b = Xᵀy."""
    p = len(u)
    U, V = [[x] for x in u], [[x] for x in v]
    theta, G = [[] for _ in u], [[] for _ in u]
    for k in range(order):
        for i in range(p):
            theta[i].append(product(U[i], V[i], k))
        for i in range(p):
            pull = mp.fdot(H[i], [theta[j][k] for j in range(p)])
            G[i].append((b[i] if k == 0 else 0) - pull)
        for i in range(p):
            U[i].append(product(V[i], G[i], k) / (k + 1))
            V[i].append(product(U[i], G[i], k) / (k + 1))
    return U, V


def integrate(problem, alpha, times, order):
    X = mp.matrix(problem["inputs"])
    H = (X.T * X).tolist()
    b = list(X.T * mp.matrix(problem["targets"]))
    u = [alpha * mp.mpf(x) for x in problem["u"]]
    v = [alpha * mp.mpf(x) for x in problem["v"]]
    t, rows = mp.mpf(0), []
    for end in times:
        while t < end:
            U, V = series(u, v, H, b, order)
            step = end - t
            for k in (order - 1, order):
                largest = max(abs(c[k]) for c in (*U, *V))
                if largest > 0:
                    step = min(step, mp.mpf("0.9") * (TOLERANCE / largest) ** (mp.mpf(1) / k))
            u = [mp.polyval(c[::-1], step) for c in U]
            v = [mp.polyval(c[::-1], step) for c in V]
            t = end if step == end - t else t + step
        rows.append((u, v))
    return rows


def eighth(x):
    """Nearest multiple of 1/8, a float without rounding."""
    return mp.nint(8 * x) / 8


def main():
    result = {}
    for name, problem in PROBLEMS.items():
        for alpha in ALPHAS:
            scale = -mp.log(mp.mpf(alpha))
            times = [eighth(mp.mpf(x) * scale) for x in problem["tau"]]
            rows = integrate(problem, mp.mpf(alpha), times, 40)
            check = integrate(problem, mp.mpf(alpha), times, 30)
            gap = max(
                abs(x - y)
                for row, other in zip(rows, check, strict=True)
                for a, b in zip(row, other, strict=True)
                for x, y in zip(a, b, strict=True)
            )
            assert gap < mp.mpf("1e-35"), gap
            print(name, alpha, "orders 30 and 40 differ by", mp.nstr(gap, 3))
            for t, (u, v) in zip(times, rows, strict=True):
                values = [mp.nstr(x * y, 10) for x, y in zip(u, v, strict=True)]
                print("   t =", mp.nstr(t, 8), "weights", *values)
            result[f"{name} {alpha}"] = {
                "alpha": alpha,
                **{k: problem[k] for k in ("inputs", "targets")},
                **{
                    f"{k}0": [mp.nstr(mp.mpf(alpha) * mp.mpf(x), 40) for x in problem[k]]
                    for k in "uv"
                },
                "t": [mp.nstr(t, 20) for t in times],
                "u": [[mp.nstr(x, 40) for x in u] for u, _ in rows],
                "v": [[mp.nstr(x, 40) for x in v] for _, v in rows],
            }
    path = Path(__file__).parents[1] / "flow_reference.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
