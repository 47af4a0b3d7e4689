"""Plain factors (A, B) from α = 1e-30 at 120 digits: writes gauge_reference.json.

A' = G B, B' = Gᵀ A for a quadratic loss that commutes with nothing and for a softmax head, by
Taylor series in fixed-point integers. A Taylor step is linear in the columns of Z = [A; B] with a
polynomial of H, so that its truncation is relative to every mode, however small; only rounding
(2^−BITS) is not, and that lies below the least of them. The step is halved until the crossings
stand still.

Run with `python tests/references/make/gauge_reference.py`; needs mpmath and numpy.
"""

import json
from fractions import Fraction
from pathlib import Path

import mpmath as mp
import numpy as np

BITS, ORDER, EXPONENT = 400, 26, 30
mp.mp.prec = BITS
ONE = 1 << BITS


def fixed(x):
    """An array of floats as exact multiples of 2^−BITS, scaled to integers."""
    x = np.asarray(x, object)
    return np.array([int(mp.mpf(v) * ONE) for v in x.ravel()], object).reshape(x.shape)


def number(x):
    return mp.mpf(int(x)) / ONE


def product(a, b):
    return (a @ b) >> BITS


def transposed(x):
    return np.swapaxes(x, -1, -2)


def series(multiply, a, b, n):
    """Coefficient n of a product of two series."""
    return sum(multiply(a[k], b[n - k]) for k in range(n + 1))


def matrix(a, b):
    return (a @ b) >> BITS


def entry(a, b):
    return (a * b) >> BITS


class Quadratic:
    """½ vec(W − M)ᵀ K vec(W − M) of W = A Bᵀ."""

    def __init__(self, data):
        self.kernel, self.target = fixed(data["kernel"]), fixed(data["target"])

    def begin(self):
        self.forces = []

    def coefficients(self, w, n):
        """Forces at order n, of series of the weights."""
        rest = w[0][n] - (self.target if n == 0 else 0)
        self.forces.append(-product(self.kernel, rest.reshape(-1)).reshape(rest.shape))
        return [self.forces]

    def loss(self, w):
        rest = (w[0] - self.target).reshape(-1)
        return number(product(rest, product(self.kernel, rest))) / 2


class Head:
    """½ mean over sequences of |softmax(X KQ Xᵀ) X VO − Y|²."""

    def __init__(self, data):
        self.x, self.y = fixed(data["x"]), fixed(data["y"])

    def begin(self):
        names = ("logits", "exp", "total", "share", "mixed", "rest", "pulled", "mean", "kq", "vo")
        self.s = {name: [] for name in names}

    def coefficients(self, w, n):
        s, x, xt = self.s, self.x, transposed(self.x)
        kq, vo = w
        s["logits"].append(matrix(matrix(x, kq[n]), xt))
        if n == 0:
            s["exp"].append(
                fixed(np.vectorize(lambda v: mp.exp(number(v)), [object])(s["logits"][0]))
            )
        else:  # e' = s' e
            pairs = (k * entry(s["logits"][k], s["exp"][n - k]) for k in range(1, n + 1))
            s["exp"].append(sum(pairs) // n)
        s["total"].append(np.sum(s["exp"][n], axis=-1, keepdims=True))
        known = sum((entry(s["share"][k], s["total"][n - k]) for k in range(n)), 0)
        s["share"].append(((s["exp"][n] - known) << BITS) // s["total"][0])
        s["mixed"].append(matrix(x, vo[n]))  # tokens times VO
        out = series(matrix, s["share"], s["mixed"], n)
        s["rest"].append(out - (self.y if n == 0 else 0))
        s["pulled"].append(
            sum(matrix(s["rest"][k], transposed(s["mixed"][n - k])) for k in range(n + 1))
        )
        s["mean"].append(np.sum(series(entry, s["share"], s["pulled"], n), axis=-1, keepdims=True))
        # softmax' applied to the pull on the shares
        inner = [p - m for p, m in zip(s["pulled"], s["mean"], strict=True)]
        slope = series(entry, s["share"], inner, n)
        count = len(x)
        s["kq"].append(-np.sum(matrix(matrix(xt, slope), x), axis=0) // count)
        vo_force = sum(
            matrix(xt, matrix(transposed(s["share"][k]), s["rest"][n - k])) for k in range(n + 1)
        )
        s["vo"].append(-np.sum(vo_force, axis=0) // count)
        return [s["kq"], s["vo"]]

    def loss(self, w):
        kq, vo = w
        logits = matrix(matrix(self.x, kq), transposed(self.x))
        e = np.vectorize(lambda v: mp.exp(number(v)), [object])(logits)
        share = fixed(e / np.sum(e, axis=-1, keepdims=True))
        rest = matrix(share, matrix(self.x, vo)) - self.y
        return number(np.sum(entry(rest, rest))) / 2 / len(self.x)


def taylor(problem, factors, h):
    """Coefficients of A and B of every leaf in powers of t/h."""
    problem.begin()
    pairs = [([a], [b]) for a, b in factors]
    weights = [[] for _ in pairs]
    for n in range(ORDER):
        for w, (a, b) in zip(weights, pairs, strict=True):
            w.append(sum(matrix(a[k], b[n - k].T) for k in range(n + 1)))
        forces = problem.coefficients(weights, n)
        for g, (a, b) in zip(forces, pairs, strict=True):
            up = sum(matrix(g[k], b[n - k]) for k in range(n + 1))
            down = sum(matrix(g[k].T, a[n - k]) for k in range(n + 1))
            a.append(h.numerator * up // (h.denominator * (n + 1)))
            b.append(h.numerator * down // (h.denominator * (n + 1)))
    return pairs


def at(pairs, theta):
    """A and B at the share theta of a step."""
    theta = int(mp.mpf(theta) * ONE)

    def horner(terms):
        total = terms[-1]
        for term in reversed(terms[:-1]):
            total = term + ((total * theta) >> BITS)
        return total

    return [(horner(a), horner(b)) for a, b in pairs]


def weights_of(factors):
    return [matrix(a, b.T) for a, b in factors]


def integrate(problem, data, refine):
    """Times at which the loss falls through the levels, and weights at whole times."""
    alpha = mp.mpf(10) ** -EXPONENT
    factors = [
        tuple(fixed([[mp.mpf(v) * alpha for v in row] for row in f]) for f in leaf)
        for leaf in data["start"]
    ]
    levels, times, values, t = list(data["levels"]), [], {}, Fraction(0)
    for until, rate in data["steps"]:
        h = Fraction(1, rate * refine)
        while t < until:
            pairs = taylor(problem, factors, h)
            new = [(sum(a), sum(b)) for a, b in pairs]
            while levels and problem.loss(weights_of(new)) <= levels[0]:
                low, high = mp.mpf(0), mp.mpf(1)
                for _ in range(90):
                    mid = (low + high) / 2
                    above = problem.loss(weights_of(at(pairs, mid))) > levels[0]
                    low, high = (mid, high) if above else (low, mid)
                times.append(
                    mp.mpf(t.numerator) / t.denominator + low * h.numerator / h.denominator
                )
                levels.pop(0)
            factors, t = new, t + h
            if t in data["at"]:
                values[int(t)] = weights_of(factors)
    return times, values


def quadratic():
    """The random problem of the tests, seed 7, 3×3."""
    rng = np.random.default_rng(7)
    root = rng.standard_normal((9, 9))
    kernel = root @ root.T / 9 + 0.3 * np.eye(9)
    u, v = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    target = u @ np.diag(np.linspace(2.0, 0.7, 3)) @ v.T
    start = [[rng.standard_normal((3, 3)).tolist() for _ in range(2)]]
    return {
        "kernel": kernel.tolist(), "target": target.tolist(), "start": start,
        "levels": [2.25, 0.8, 0.1], "steps": [(90, 8)], "at": [31, 40, 54, 70, 82, 90],
    }  # fmt: skip


def head():
    """A softmax head of d = 2, r = 2 on four sequences of three tokens."""
    rng = np.random.default_rng(5)
    x = np.round(rng.standard_normal((4, 3, 2)), 3)
    kq, vo = (np.round(s * rng.standard_normal((2, 2)), 3) for s in (2.0, 1.5))
    logits = x @ kq @ np.swapaxes(x, 1, 2)
    share = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    y = np.round(share @ x @ vo, 3)
    start = np.round(rng.standard_normal((2, 2, 2, 2)), 3).tolist()
    return {
        "x": x.tolist(), "y": y.tolist(), "start": start, "levels": [6.4, 2.7, 0.2],
        "steps": [(49, 16), (60, 64), (110, 16)], "at": [40, 51, 53, 56, 80, 102, 104],
    }  # fmt: skip


def main():
    out = {"exponent": EXPONENT}
    for name, data, kind in (("quadratic", quadratic(), Quadratic), ("head", head(), Head)):
        (times, values), (finer, more) = (integrate(kind(data), data, k) for k in (1, 2))
        gap = max(abs(a - b) for a, b in zip(times, finer, strict=True))
        rest = max(
            float(np.max(np.abs(np.array(x - y, float)))) / ONE
            for t in values
            for x, y in zip(values[t], more[t], strict=True)
        )
        print(f"{name}: times {[mp.nstr(t, 16) for t in finer]}")
        print(f"  after halving the step: times {mp.nstr(gap, 3)}, weights {rest:.3g}")
        data["times"] = [mp.nstr(t, 25) for t in finer]
        data["weights"] = {
            str(t): [[[mp.nstr(number(v), 20) for v in row] for row in x.tolist()] for x in w]
            for t, w in more.items()
        }
        out[name] = data
    path = Path(__file__).parents[1] / "gauge_reference.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
