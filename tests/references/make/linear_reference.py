"""Two-layer linear networks at 40 digits: writes linear_reference.json beside this script.

    W₁' = W₂ᵀ(Σ − W₂W₁) − γW₁,   W₂' = (Σ − W₂W₁)W₁ᵀ − γW₂

is integrated by its own Taylor series in mpmath: no Riccati equation, no exponential, no
singular vectors. The starts are λ-balanced at 60 digits and stored with 40, so that their
float64 roundings are balanced to rounding. Every run is made twice, with series of order 24
and 32, which must agree to 42 digits.

    python tests/references/make/linear_reference.py          # some minutes
"""

import json
from pathlib import Path

import mpmath as mp

mp.mp.dps = 60
TOLERANCE = mp.mpf("1e-50")

#: sizes (i, h, o), balance λ, decay γ, scale of the start
CASES = {
    "square": ((2, 2, 2), "0", "0", "0.1"),
    "square, λ > 0": ((2, 2, 2), "0.7", "0", "0.2"),
    "square, λ < 0": ((2, 2, 2), "-0.7", "0", "0.2"),
    "wide, tiny": ((3, 4, 2), "0", "0", "1e-8"),
    "wide, decay": ((2, 4, 3), "0", "0.4", "0.3"),
    "bottleneck": ((3, 1, 2), "0", "0", "0.3"),
    "bottleneck, λ > 0": ((3, 2, 4), "2", "0", "0.1"),
    "bottleneck, λ < 0": ((4, 2, 3), "-2", "0", "0.1"),
    "bottleneck, decay": ((3, 2, 3), "0", "0.4", "0.05"),
}
TIMES = ("0.125", "1", "3", "8", "20")


def numbers(seed):
    """Numbers in (−1, 1), uniform enough, each a float of 24 bits: x ← 16807x mod 2³¹ − 1."""
    while True:
        seed = 16807 * seed % (2**31 - 1)
        yield mp.mpf((seed >> 7) - 2**23) / 2**23


def matrix(source, rows, columns):
    return mp.matrix([[next(source) for _ in range(columns)] for _ in range(rows)])


def root(symmetric):
    values, vectors = mp.eigsy(symmetric)
    return vectors * mp.diag([mp.sqrt(max(v, 0)) for v in values]) * vectors.T


def start(source, sizes, balance, scale):
    i, h, o = sizes
    eye = mp.eye(h)
    if balance >= 0 and h <= o:
        w1 = scale * matrix(source, h, i)
        frame = mp.qr(matrix(source, o, h), mode="skinny")[0]
        return w1, frame * root(w1 * w1.T + balance * eye)
    if balance <= 0 and h <= i:
        w2 = scale * matrix(source, o, h)
        frame = mp.qr(matrix(source, i, h), mode="skinny")[0]
        return root(w2.T * w2 - balance * eye) * frame.T, w2
    # W₁ = RC, W₂ = D Rᵀ with DᵀD = CCᵀ: D = V(CCᵀ)^½ has o columns or fewer
    m = min(i, o)
    c = scale * matrix(source, m, i)
    d = mp.qr(matrix(source, o, m), mode="skinny")[0] * root(c * c.T)
    frame = mp.qr(matrix(source, h, m), mode="skinny")[0]
    return frame * c, d * frame.T


def convolution(a, b, k):
    total = a[0] * b[k]
    for j in range(1, k + 1):
        total += a[j] * b[k - j]
    return total


def series(w1, w2, target, decay, order):
    first, second, residual = [w1], [w2], []
    for k in range(order):
        product = convolution(second, first, k)
        residual.append((target - product) if k == 0 else -product)
        turned = [w.T for w in second], [w.T for w in first]
        first.append((convolution(turned[0], residual, k) - decay * first[k]) / (k + 1))
        second.append((convolution(residual, turned[1], k) - decay * second[k]) / (k + 1))
    return first, second


def size(m):
    return max(abs(x) for x in m)


def integrate(w1, w2, target, decay, times, order):
    t, rows = mp.mpf(0), []
    for end in times:
        while t < end:
            first, second = series(w1, w2, target, decay, order)
            step = end - t
            unit = max(size(w1), size(w2))
            for k in (order - 1, order):
                largest = max(size(first[k]), size(second[k]))
                step = min(step, mp.mpf("0.9") * (TOLERANCE * unit / largest) ** (mp.mpf(1) / k))
            w1, w2 = mp.zeros(*_shape(w1)), mp.zeros(*_shape(w2))
            for a, b in zip(first[::-1], second[::-1], strict=True):
                w1, w2 = w1 * step + a, w2 * step + b
            t = end if step == end - t else t + step
        rows.append((w2 * w1, w1.T * w1, w2 * w2.T))
    return rows


def _shape(m):
    return m.rows, m.cols


def text(m):
    return [[mp.nstr(m[a, b], 40) for b in range(m.cols)] for a in range(m.rows)]


def main():
    result = {}
    times = [mp.mpf(t) for t in TIMES]
    for seed, (name, (sizes, balance, decay, scale)) in enumerate(CASES.items(), 1):
        source = numbers(12345 * seed)
        i, _, o = sizes
        target = matrix(source, o, i)
        w1, w2 = start(source, sizes, mp.mpf(balance), mp.mpf(scale))
        gamma = mp.mpf(decay)
        runs = [integrate(w1, w2, target, gamma, times, order) for order in (32, 24)]
        gap = max(
            size(a - b) / size(a)
            for row, other in zip(*runs, strict=True)
            for a, b in zip(row, other, strict=True)
        )
        assert gap < mp.mpf("1e-42"), gap
        print(name, "orders 24 and 32 differ by", mp.nstr(gap, 3))
        result[name] = {
            "sizes": list(sizes),
            "balance": balance,
            "decay": decay,
            "target": text(target),
            "w1": text(w1),
            "w2": text(w2),
            "t": list(TIMES),
            "product": [text(row[0]) for row in runs[0]],
            "input": [text(row[1]) for row in runs[0]],
            "output": [text(row[2]) for row in runs[0]],
        }
    path = Path(__file__).parents[1] / "linear_reference.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
