"""Deep matrices as α → 0, from general starts: writes deep_reference.json.

W_j' = (W_D ⋯ W_{j+1})ᵀ G (W_{j−1} ⋯ W_1)ᵀ from W_j = α M_j with Gaussian M_j. On a plateau G stays
and dormant blocks are homogeneous: their Taylor series, in 80-bit floats, are followed until the
winner has outgrown the rest by RATIO, and what is left to its blow-up is that of one mode,
1/(σ(D−2)a^{D−2}). Along the drop, which takes a time of order one, dormant blocks are a variation
of the live matrices: that of the whole flow, by DOP853, from START on. Behind it the interfaces
are turned so that the columns of (W_jᵀ; W_{j+1}) are orthogonal, and what is left of the dormant
blocks starts anew.

The times are off by the share of other directions that a winner still has at RATIO, and by what
START leaves out: 3e-9 for these (a RATIO of 3e6 changes them by up to 3e-7). With modes whose rates
are closer it is far more.

Run with `python tests/references/make/deep_reference.py`; needs numpy, scipy and jax.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

jax.config.update("jax_enable_x64", True)

LD = np.longdouble
RATIO, ORDER, DIGITS = 2e8, 26, 19.5
START, VARIED = 5e-4, 3e-10
SINGULAR = (3.0, 2.0, 1.5, 1.2, 1.0)


def problem(n, general):
    """Matrices, target and kernel of ½ vec(W − Y)ᵀK vec(W − Y)."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(n, n)) for _ in range(3)]
    u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    target = u @ np.diag(SINGULAR[:n]) @ v.T
    a = rng.normal(size=(n * n, n * n))
    return weights, target, np.eye(n * n) + 0.3 * general * (a @ a.T) / n**2


def series(ws, g):
    """Taylor coefficients of all matrices."""
    d = len(ws)
    c = [[w] for w in ws]
    below, above = ([[] for _ in range(d)] for _ in range(2))

    def product(a, b, n):
        return sum(a[i] @ b[n - i] for i in range(n + 1))

    for n in range(ORDER):
        for j in range(d):
            below[j].append(product(c[j], below[j - 1], n) if j else c[0][n])
        for j in reversed(range(d)):
            above[j].append(product(above[j + 1], c[j], n) if j < d - 1 else c[-1][n])
        for j in range(d):
            if j == 0:
                pulled = above[1][n].T @ g
            elif j == d - 1:
                pulled = g @ below[d - 2][n].T
            else:
                pulled = sum(above[j + 1][i].T @ g @ below[j - 1][n - i].T for i in range(n + 1))
            c[j].append(pulled / LD(n + 1))
    return c


def blow_up(ws, g):
    """Dormant matrices when one of their modes has outgrown the rest, and when that is."""
    start, t = max(np.abs(w).max() for w in ws), LD(0)
    while max(np.abs(w).max() for w in ws) < RATIO * start:
        c = series(ws, g)
        sizes = [(np.abs(x[0]).max(), np.abs(x[ORDER]).max()) for x in c]
        radius = min((first / last) ** (1.0 / ORDER) for first, last in sizes if last > 0)
        h = LD(float(radius) * 10 ** (-DIGITS / ORDER))
        ws = [functools.reduce(lambda s, x: x + h * s, reversed(x[:ORDER]), x[ORDER]) for x in c]
        t = t + h
    return t, ws


def turned(ws):
    """The same with orthogonal columns of (W_jᵀ; W_{j+1}), largest first."""
    ws = list(ws)
    for j in range(len(ws) - 1):
        r = jacobi(np.concatenate([ws[j].T, ws[j + 1]]))
        ws[j], ws[j + 1] = r.T @ ws[j], ws[j + 1] @ r
    return ws


def jacobi(z):
    z, n = z.copy(), z.shape[1]
    r = np.eye(n, dtype=LD)
    for _ in range(30):
        worst = LD(0)
        for i in range(n):
            for j in range(i + 1, n):
                a, b, p = z[:, i] @ z[:, i], z[:, j] @ z[:, j], z[:, i] @ z[:, j]
                worst = max(worst, abs(p) / np.sqrt(a * b))
                if p == 0:
                    continue
                x = (b - a) / (2 * p)
                t = (1 if x >= 0 else -1) / (abs(x) + np.sqrt(1 + x**2))
                c = 1 / np.sqrt(1 + t**2)
                turn = np.array([[c, c * t], [-c * t, c]], LD)
                z[:, [i, j]], r[:, [i, j]] = z[:, [i, j]] @ turn, r[:, [i, j]] @ turn
        if worst < 1e-18:
            break
    return r[:, np.argsort(-np.sum(z**2, axis=0))]


def parts(ws, cut):
    """Interior indices up to `cut`, and from it on."""
    last = len(ws) - 1

    def block(own):
        return [
            w[(slice(None) if j == last else own, slice(None) if j == 0 else own)]
            for j, w in enumerate(ws)
        ]

    return block(slice(cut)), block(slice(cut, None))


def embedded(ws, at, n):
    """Matrices whose interior indices start at `at`, among n."""
    last, out = len(ws) - 1, []
    for j, w in enumerate(ws):
        rows = (0, 0) if j == last else (at, n - at - w.shape[0])
        columns = (0, 0) if j == 0 else (at, n - at - w.shape[1])
        out.append(np.pad(w, (rows, columns)))
    return out


def dropped(live, dormant, force):
    """Live matrices at rest, and dormant ones as they have varied on the way."""
    shapes = [w.shape for w in live]
    cuts = np.cumsum([w.size for w in live])[:-1].tolist()

    def split(y):
        return [x.reshape(s) for x, s in zip(jnp.split(y, cuts), shapes, strict=True)]

    def value(y):
        return functools.reduce(lambda below, w: w @ below, split(y))

    def field(y):
        return jax.vjp(value, y)[1](force(value(y)))[0]

    both = jax.jit(lambda y, z: jnp.concatenate(jax.jvp(field, (y,), (z,))))
    y, z = (np.concatenate([np.asarray(w, float).ravel() for w in ws]) for ws in (live, dormant))
    n, scale = len(y), np.max(np.abs(z)) or 1.0
    state = np.concatenate([y, z / scale])
    for k in range(400):
        found = solve_ivp(
            lambda t, s: np.asarray(both(s[:n], s[n:])), (0.0, 2.5 / START if k == 0 else 30.0),
            state, method="DOP853", rtol=3e-13, atol=1e-14,
        )  # fmt: skip
        state = found.y[:, -1]
        if k and np.max(np.abs(field(state[:n]))) < 2e-13:
            break

    def back(flat):
        return [np.asarray(x, LD) for x in split(flat)]

    return back(state[:n]), back(scale * state[n:])


def limits(weights, target, kernel):
    """α^{D−2} t at every drop, from the first on, and the loss behind it."""

    def force(w):
        return (kernel @ (target - w).reshape(-1)).reshape(target.shape)

    d, n, made = len(weights), len(target), 0
    live, dormant = None, [np.asarray(w, LD) for w in weights]
    value, total, found = np.zeros(target.shape), LD(0), []
    while made < n:
        g = np.asarray(force(value), LD)
        t, late = blow_up(dormant, g)
        winner, _ = parts(turned(late), 1)
        rest = [w.copy() for w in turned(late)]
        rest[0][0] = 0
        rest[-1][:, 0] = 0
        for w in rest[1:-1]:
            w[0, 0] = 0
        norms = [np.sqrt(np.sum(w**2)) for w in winner]
        size = np.prod(norms) ** (LD(1) / d)
        along = functools.reduce(lambda below, w: w @ below, winner)
        rate = np.sum(along * g) / np.prod(norms)
        total = total + t + 1 / (rate * (d - 2) * size ** (d - 2))
        whole = embedded([w / size * LD(START) for w in winner], made, n)
        if live is not None:
            whole = [a + b for a, b in zip(whole, embedded(live, 0, n), strict=True)]
        whole, varied = dropped(whole, embedded(rest, made, n), force)
        made += 1
        tiny = LD(VARIED) / max(max(np.abs(w).max() for w in varied), LD(1e-300))
        if made < n:
            whole = turned([a + tiny * b for a, b in zip(whole, varied, strict=True)])
        live, dormant = parts(whole, made)
        dormant = [w / tiny for w in dormant]
        value = np.asarray(functools.reduce(lambda below, w: w @ below, live), float)
        off = (value - target).ravel()
        found.append((float(total), float(0.5 * off @ kernel @ off)))
    return found


def main():
    out = []
    for n, general in ((3, False), (3, True), (5, False)):
        weights, target, kernel = problem(n, general)
        found = limits(weights, target, kernel)
        print(n, general, found, flush=True)
        out.append(
            {
                "weights": [w.tolist() for w in weights],
                "target": target.tolist(),
                "kernel": kernel.tolist(),
                "times": [t for t, _ in found],
                "losses": [x for _, x in found],
            }
        )
    path = Path(__file__).resolve().parents[1] / "deep_reference.json"
    path.write_text(json.dumps({"cases": out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
