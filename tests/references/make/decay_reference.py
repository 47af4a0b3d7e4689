"""Two factors under weight decay at 40 digits: writes decay_reference.json beside this script.

    A' = c(D − ABᵀ)B − λA,   B' = c(D − ABᵀ)ᵀA − λB        (c = 1: ½‖W − D‖², c = 2: ‖W − D‖²)

is integrated by its own Taylor series in mpmath: no Riccati equation, no singular vectors, no
linear differential equation. Every run is made twice, with series of order 24 and 32, which must
agree to 42 digits. Where D and the start are diagonal, the Whittaker functions that solve the
linear ODE of each mode must agree with it to 28 digits.

The logit of associative lookup, a' = 2ςa/(e^{ςa} + K − 1) − 2λa, is found from t(a) by quadrature
(by the exponential integral for λ = 0); gaps ½‖A‖² + ½‖B‖² − ‖ABᵀ‖_* from singular values at 80
digits.

    python tests/references/make/decay_reference.py          # some minutes
"""

import json
from pathlib import Path

import mpmath as mp

mp.mp.dps = 60
TOLERANCE = mp.mpf("1e-50")
TIMES = ("0.125", "1", "3", "8", "20")

#: (m, n, r), g₀ of AᵀA − BᵀB = g₀I, λ, loss, scale of the start
RANDOM = {
    "bottleneck": ((3, 4, 2), "0", "0.25", "half", "0.3"),
    "wide": ((2, 3, 4), "0", "0.25", "full", "0.1"),
    "one column, tiny": ((2, 2, 1), "0", "0.125", "half", "1e-6"),
    "left is larger": ((4, 3, 2), "0.75", "0.25", "half", "0.2"),
    "right is larger": ((3, 4, 2), "-0.75", "0.25", "full", "0.2"),
    "lazy": ((2, 3, 2), "6", "0.125", "half", "0.1"),
    "square": ((2, 2, 2), "-0.5", "0.5", "half", "0.3"),
}
#: d, a(0), b(0), λ, loss: diagonal, column by column
DIAGONAL = {
    "one grows, one dies": (("1", "0.25"), ("0.125", "0.5"), None, "0.5", "half"),
    "tie": (("0.5",), ("0.25",), None, "0.5", "half"),
    "tie, full": (("0.25",), ("0.25",), None, "0.5", "full"),
    "tiny start": (("1",), ("1e-9",), None, "0.25", "half"),
    "above its end": (("1", "-0.5"), ("2", "1.5"), None, "0.25", "full"),
    "unbalanced": (("1", "0.375"), ("0.75", "0.75"), ("0.25", "0.25"), "0.3125", "half"),
    # s/λ is an integer: M_{½,−μ} does not exist
    "integer": (("1", "0.5"), ("0.75", "0.75"), ("0.25", "-0.25"), "0.25", "half"),
    "right is larger": (("1", "0.375"), ("0.25", "0.25"), ("0.75", "-0.75"), "0.3125", "full"),
}
#: a₀, K, λ, ς, times
LOOKUP = {
    "no decay": ("0.05", 5, "0", "1", ("1", "5", "50")),
    "no decay, scaled": ("0.05", 3, "0", "0.5", ("1", "5", "50")),
    "from below": ("0.01", 6, "0.05", "1", ("1", "10", "30", "100")),
    "from far below": ("1e-30", 6, "0.05", "0.5", ("10", "500", "1000", "1500")),
    "from above": ("4", 6, "0.05", "1", ("1", "10", "30", "100")),
    "just below the threshold": ("0.01", 4, "0.2490234375", "1", ("10", "1000", "10000")),
    "at the threshold": ("1", 4, "0.25", "1", ("1", "10", "1000")),
    "above the threshold": ("2", 4, "0.5", "1", ("1", "10", "100")),
    "two tokens": ("0.25", 2, "0.125", "2", ("1", "5", "20")),
}


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


def start(source, sizes, g0, scale):
    """Random A, B with AᵀA − BᵀB = g₀I."""
    m, n, r = sizes
    eye = mp.eye(r)
    if g0 >= 0 and r <= m:
        b = scale * matrix(source, n, r)
        frame = mp.qr(matrix(source, m, r), mode="skinny")[0]
        return frame * root(b.T * b + g0 * eye), b
    if g0 <= 0 and r <= n:
        a = scale * matrix(source, m, r)
        frame = mp.qr(matrix(source, n, r), mode="skinny")[0]
        return a, frame * root(a.T * a - g0 * eye)
    # r > m, n: A = C Rᵀ, B = E Rᵀ with CᵀC = EᵀE and orthonormal columns R
    k = min(m, n)
    c = scale * matrix(source, m, k)
    e = mp.qr(matrix(source, n, k), mode="skinny")[0] * root(c.T * c)
    frame = mp.qr(matrix(source, r, k), mode="skinny")[0]
    return c * frame.T, e * frame.T


def convolution(x, y, k):
    total = x[0] * y[k]
    for j in range(1, k + 1):
        total += x[j] * y[k - j]
    return total


def series(a, b, target, decay, speed, order):
    left, right, force = [a], [b], []
    for k in range(order):
        product = convolution(left, [x.T for x in right], k)
        force.append(speed * ((target - product) if k == 0 else -product))
        left.append((convolution(force, right, k) - decay * left[k]) / (k + 1))
        turned = [x.T for x in force]
        right.append((convolution(turned, left[: k + 1], k) - decay * right[k]) / (k + 1))
    return left, right


def size(m):
    return max(abs(x) for x in m)


def integrate(a, b, target, decay, speed, times, order):
    t, rows = mp.mpf(0), []
    for end in times:
        while t < end:
            left, right = series(a, b, target, decay, speed, order)
            step = end - t
            unit = max(size(a), size(b))
            for k in (order - 1, order):
                largest = max(size(left[k]), size(right[k]))
                step = min(step, mp.mpf("0.9") * (TOLERANCE * unit / largest) ** (mp.mpf(1) / k))
            a, b = mp.zeros(a.rows, a.cols), mp.zeros(b.rows, b.cols)
            for x, y in zip(left[::-1], right[::-1], strict=True):
                a, b = a * step + x, b * step + y
            t = end if step == end - t else t + step
        rows.append(a * b.T)
    return rows


def flow(a, b, target, decay, loss):
    speed = {"half": 1, "full": 2}[loss]
    times = [mp.mpf(t) for t in TIMES]
    runs = [integrate(a, b, target, decay, speed, times, order) for order in (32, 24)]
    gap = max(size(x - y) / size(x) for x, y in zip(*runs, strict=True))
    assert gap < mp.mpf("1e-42"), gap
    return {
        "left": text(a),
        "right": text(b),
        "target": text(target),
        "decay": mp.nstr(decay, 20),
        "loss": loss,
        "t": list(TIMES),
        "product": [text(x) for x in runs[0]],
    }


def whittaker(a, b, d, decay, t):
    """ab at time t of one mode of ½(d − ab)², g₀ = a² − b² ≠ 0, by the linear ODE's solutions."""
    if a**2 < b**2:  # the roles of the two factors exchanged
        a, b = b, a
    g0 = a**2 - b**2
    mu = abs(d) / (2 * decay)
    integer = mp.isint(d / decay)

    def functions(u):
        h = g0 / 2 * mp.e ** (-2 * decay * u)
        second = (
            mp.whitw(mp.mpf("0.5"), mu, h / decay)
            if integer
            else mp.whitm(mp.mpf("0.5"), -mu, h / decay)
        )
        first = mp.whitm(mp.mpf("0.5"), mu, h / decay)
        return [mp.e ** (-decay * u) * f / mp.sqrt(h) for f in (first, second)]

    def pair(u):
        """(p₁, p₂) of both solutions."""
        h = g0 / 2 * mp.e ** (-2 * decay * u)
        values = functions(u)
        slopes = [mp.diff(lambda v, k=k: functions(v)[k], u) for k in (0, 1)]
        return [((s + (decay - h) * v) / d, v) for s, v in zip(slopes, values, strict=True)]

    (x1, x2), (y1, y2) = pair(mp.mpf(0))
    c = mp.lu_solve(mp.matrix([[x1, y1], [x2, y2]]), mp.matrix([b, a]))

    def p(u):
        (x1, x2), (y1, y2) = pair(u)
        return c[0] * x1 + c[1] * y1, c[0] * x2 + c[1] * y2

    integral = mp.quad(lambda u: sum(x**2 for x in p(u)), mp.linspace(0, t, 5))
    p1, p2 = p(t)
    return p1 * p2 / (1 + integral)


def diagonal(name, d, a, b, decay, loss):
    b = b or [mp.sign(mp.mpf(x)) * mp.mpf(y) for x, y in zip(d, a, strict=True)]
    d, a, b = ([mp.mpf(x) for x in y] for y in (d, a, b))
    decay = mp.mpf(decay)
    case = flow(mp.diag(a), mp.diag(b), mp.diag(d), decay, loss)
    if a[0] ** 2 != b[0] ** 2:
        speed = {"half": 1, "full": 2}[loss]
        time = mp.mpf(TIMES[2])
        for k, mode in enumerate(zip(a, b, d, strict=True)):
            found = whittaker(*mode, decay / speed, time * speed)
            error = abs(found - mp.mpf(case["product"][2][k][k])) / abs(found)
            print(f"{name}: Whittaker functions differ by", mp.nstr(error, 3))
            assert error < mp.mpf("1e-28")
    return case


def lookup(a0, k, decay, scale, times):
    a0, decay, scale = mp.mpf(a0), mp.mpf(decay), mp.mpf(scale)

    def field(a):
        return 2 * scale * a / (mp.e ** (scale * a) + k - 1) - 2 * decay * a

    # w → a in which the clock is smooth up to the end
    end = mp.mpf(0)
    if 0 < decay * k < scale:
        end = mp.log(scale / decay - k + 1) / scale
    if end > 0 and a0 < end:
        w, way = mp.log(a0 / (end - a0)), 1

        def back(w):
            return end / (1 + mp.e ** (-w))

        def slope(w):
            return end / (1 + mp.e ** (-w)) / (1 + mp.e**w)

    else:
        w, way = mp.log(a0 - end), 1 if decay == 0 else -1

        def back(w):
            return end + mp.e**w

        slope = mp.exp

    def between(low, high):
        return mp.quad(lambda v: slope(v) / field(back(v)), [low, high])

    passed, rows = mp.mpf(0), []
    for t in map(mp.mpf, times):
        while passed + (unit := between(w, w + mp.mpf(way) / 2)) < t:
            passed, w = passed + unit, w + mp.mpf(way) / 2
        found = mp.findroot(
            lambda x, w=w, left=t - passed: between(w, x) - left,
            (w, w + mp.mpf(way) / 2),
            solver="anderson",
            tol=1e-90,
        )
        a = back(found)
        if decay == 0:
            clock = mp.ei(scale * a) - mp.ei(scale * a0) + (k - 1) * mp.log(a / a0)
            assert abs(clock / (2 * scale) / t - 1) < mp.mpf("1e-42")
        rows.append(mp.nstr(a, 40))
    return {
        "a0": mp.nstr(a0, 20),
        "classes": k,
        "decay": mp.nstr(decay, 20),
        "scale": mp.nstr(scale, 20),
        "t": list(times),
        "a": rows,
    }


def gaps():
    """Factors of float64 entries and their gap, from 1 down to far below rounding."""
    rows = []
    with mp.workdps(80):
        for seed, (shape, noise, small) in enumerate(
            [
                ((3, 4, 2), "1", "1"),
                ((3, 3, 3), "1e-3", "1"),
                ((4, 3, 2), "1e-9", "1"),
                ((2, 3, 5), "1e-12", "1"),
                ((3, 3, 3), "1e-9", "1e-8"),
                ((4, 5, 3), "1e-11", "1e-5"),
                ((3, 2, 1), "1e-14", "1"),
            ],
            1,
        ):
            m, n, r = shape
            source = numbers(54321 * seed)
            k = min(shape)
            left = mp.qr(matrix(source, m, k), mode="skinny")[0]
            right = mp.qr(matrix(source, n, k), mode="skinny")[0]
            hidden = mp.qr(matrix(source, r, k), mode="skinny")[0]
            sizes = [1 / mp.mpf(j) for j in range(1, k + 1)]
            sizes[-1] *= mp.mpf(small)
            a, b = (
                rounded(x * mp.diag(sizes) * hidden.T + mp.mpf(noise) * matrix(source, *end))
                for x, end in ((left, (m, r)), (right, (n, r)))
            )
            norms = sum(x**2 for x in a) + sum(x**2 for x in b)
            w = a * b.T
            nuclear = sum(mp.svd_r(w if w.rows >= w.cols else w.T, compute_uv=False))
            rows.append(
                {
                    "left": [[float(a[i, j]) for j in range(r)] for i in range(m)],
                    "right": [[float(b[i, j]) for j in range(r)] for i in range(n)],
                    "gap": mp.nstr(norms / 2 - nuclear, 30),
                }
            )
            print("gap", rows[-1]["gap"])
    return rows


def rounded(m):
    return m.apply(lambda x: mp.mpf(float(x)))


def text(m):
    return [[mp.nstr(m[i, j], 40) for j in range(m.cols)] for i in range(m.rows)]


def main():
    flows = {}
    for seed, (name, (sizes, g0, decay, loss, scale)) in enumerate(RANDOM.items(), 1):
        source = numbers(12345 * seed)
        m, n, _ = sizes
        target = matrix(source, m, n)
        a, b = start(source, sizes, mp.mpf(g0), mp.mpf(scale))
        flows[f"random, {name}"] = flow(a, b, target, mp.mpf(decay), loss)
        print(name)
    for name, case in DIAGONAL.items():
        flows[f"diagonal, {name}"] = diagonal(name, *case)
        print(name)
    logits = {}
    for name, case in LOOKUP.items():
        logits[name] = lookup(*case)
        print(name, logits[name]["a"][-1])
    result = {"flows": flows, "lookup": logits, "gaps": gaps()}
    path = Path(__file__).parents[1] / "decay_reference.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
