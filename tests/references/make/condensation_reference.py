"""The raw flow a' = Bc, B' = acᵀ, c' = Bᵀa to its pole at 40 digits: condensation_reference.json.

All m + mn + n weights by Taylor series with steps that shrink with the distance to the pole; no
reduction, no conserved quantity, no bound enters. Every weight ends as x = r/(T* − t) + O(T* − t),
so that T* = t + x/x' up to the cube of what is left, 1e-30 once weights have grown by 1e10. The
same at a lower order of the series measures the error. Also exponentials of the stacked matrix
[[0, F], [Fᵀ, 0]], for key and query weights. About two minutes.

Run with `python tests/references/make/condensation_reference.py`; needs mpmath.
"""

import json
import random
from pathlib import Path

import mpmath as mp

mp.mp.dps = 40
GROWTH = mp.mpf(10) ** 10


def taylor(a, b, c, order):
    """Coefficients of a, B, c in powers of t."""
    m, n = len(a), len(c)
    sa, sb, sc = [a], [b], [c]
    for k in range(order):
        pairs = [(i, k - i) for i in range(k + 1)]
        sa.append([mp.fsum(mp.fdot(sb[i][r], sc[j]) for i, j in pairs) / (k + 1) for r in range(m)])
        sb.append(
            [[mp.fsum(sa[i][r] * sc[j][s] for i, j in pairs) / (k + 1) for s in range(n)]
             for r in range(m)]
        )  # fmt: skip
        columns = [[[row[s] for row in x] for s in range(n)] for x in sb[: k + 1]]
        sc.append(
            [mp.fsum(mp.fdot(columns[i][s], sa[j]) for i, j in pairs) / (k + 1) for s in range(n)]
        )
    return sa, sb, sc


def size(a, b, c):
    return max(abs(x) for x in [*a, *c, *(x for row in b for x in row)])


def blow_up(a, b, c, order):
    a, c = [mp.mpf(x) for x in a], [mp.mpf(x) for x in c]
    b = [[mp.mpf(x) for x in row] for row in b]
    t, first = mp.mpf(0), size(a, b, c)
    while size(a, b, c) < GROWTH * first:
        sa, sb, sc = taylor(a, b, c, order)
        terms = [size(*coefficients) for coefficients in zip(sa, sb, sc, strict=True)]
        # the last term is 1e-32 of the first
        h = min((terms[0] / x) ** (mp.mpf(1) / k) for k, x in enumerate(terms) if k > order - 3)
        h *= mp.mpf(10) ** (-mp.mpf(32) / order)

        def at(s, h=h):
            return mp.polyval(s[::-1], h)

        a = [at([x[r] for x in sa]) for r in range(len(a))]
        c = [at([x[s] for x in sc]) for s in range(len(c))]
        b = [[at([x[r][s] for x in sb]) for s in range(len(c))] for r in range(len(a))]
        t += h
    sa, _, _ = taylor(a, b, c, 1)
    left = [x / y for x, y in zip(*sa, strict=True)]
    # all components of a have the same pole
    largest = max(range(len(a)), key=lambda r: abs(a[r]))
    norm = mp.sqrt(mp.fdot(a, a)), mp.sqrt(mp.fdot(c, c))
    return t + left[largest], [x / norm[0] for x in a], [x / norm[1] for x in c]


def digits(x):
    return [digits(y) for y in x] if isinstance(x, list) else mp.nstr(x, 25)


def flows():
    rng = random.Random(20)

    def draw(*shape, scale=1.0):
        if shape:
            return [draw(*shape[1:], scale=scale) for _ in range(shape[0])]
        return round(scale * rng.gauss(0, 1), 3)

    starts = [("square", 3, 3, 1), ("square again", 3, 3, 1), ("wide", 2, 4, 1), ("tall", 4, 2, 1),
              ("small readout", 2, 2, 0.01), ("single row", 1, 3, 1)]  # fmt: skip
    out = []
    for name, m, n, scale in starts:
        a, b, c = draw(m), draw(m, n), draw(n, scale=scale)
        out.append({"name": name, "a": a, "B": b, "c": c})
    # E < 0, and no part in a
    flipped = dict(out[0], name="flipped", a=[-x for x in out[0]["a"]])
    out += [flipped, dict(out[1], name="a = 0", a=[0.0] * 3)]
    for start in out:
        values = [blow_up(start["a"], start["B"], start["c"], order) for order in (26, 22)]
        gap = abs(values[0][0] - values[1][0])
        print(start["name"], mp.nstr(values[0][0], 20), "other order", mp.nstr(gap, 3))
        assert gap < mp.mpf(10) ** -25
        start["time"], start["p"], start["q"] = (digits(x) for x in values[0])
    return out


def key_query():
    rng = random.Random(3)

    def draw(m, n):
        return [[round(rng.gauss(0, 1), 3) for _ in range(n)] for _ in range(m)]

    f, q, k = draw(3, 4), draw(3, 2), draw(4, 2)
    out = {"F": f, "Q0": q, "K0": k, "t": [0.01, 1.0, 30.0, 150.0], "Q": [], "K": []}
    mp.mp.dps = 400
    stacked = mp.zeros(7)
    for i in range(3):
        for j in range(4):
            stacked[i, 3 + j] = stacked[3 + j, i] = mp.mpf(f[i][j])
    start = mp.matrix(q + k)
    for t in out["t"]:
        values = (mp.expm(stacked * mp.mpf(t)) * start).tolist()
        out["Q"].append(digits(values[:3]))
        out["K"].append(digits(values[3:]))
    return out


def main():
    out = {"flows": flows(), "key_query": key_query()}
    path = Path(__file__).parents[1] / "condensation_reference.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
