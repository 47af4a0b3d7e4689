"""Overlaps of tokens and layers of simplex tokens at 50 digits: writes depth_reference.json.

Times are quadratures of 1/γ' in γ itself (no other clock); scores with a memory are integrated by
mpmath's Taylor series of (γ, δ); layers are iterated on ρ and δ as they stand.

    python tests/references/make/depth_reference.py          # a minute
"""

import json
from pathlib import Path

import mpmath as mp

mp.mp.dps = 50
CASES = ((2, "1"), (6, "2"), (5, "6"), (40, "0.5"), (7, "-3"), (6, "60"))
LEVELS = ("0.01", "0.5", "0.9", "0.999999")


def speed(n, beta, gamma, kind):
    common = (1 - gamma) * ((n - 1) * gamma + 1)
    if kind == "softmax":
        return 2 * common / (mp.exp(beta * (1 - gamma)) + n - 1)
    return 2 * mp.exp(beta * gamma) * common / n


def waited(n, beta, kind, level):
    end = mp.mpf(float(level))
    knots = [end * k / 16 for k in range(16)] + [end]
    return mp.quad(lambda g: 1 / speed(n, mp.mpf(beta), g, kind), knots)


def overlap_times():
    rows = []
    for n, beta in CASES:
        for kind in ("softmax", "unnormalised"):
            for level in LEVELS:
                t = waited(n, beta, kind, level)
                rows.append([n, float(beta), kind, float(level), mp.nstr(t, 30)])
    return rows


def relaxed():
    rows = []
    for tau in ("0.1", "1", "10", "100"):
        tau_ = mp.mpf(tau)

        def field(_, y, tau_=tau_):
            gamma, delta = y
            common = 2 * (1 - gamma) * (5 * gamma + 1)
            return [common / (mp.exp(delta) + 5), (2 * (1 - gamma) - delta) / tau_]

        course = mp.odefun(field, 0, [mp.mpf(0), mp.mpf(2)], tol=mp.mpf("1e-25"))
        gamma, delta = course(mp.mpf(2))
        rows.append([float(tau), mp.nstr(gamma, 20), mp.nstr(delta, 20)])
    return rows


def layers(n, beta, depth, leak=None, kept=0):
    mp.mp.dps = 50
    rho, delta, found = mp.mpf(1), mp.mpf(beta), [mp.mpf(0)]
    for _ in range(depth):
        rho = mp.expm1(delta) / (mp.exp(delta) + n - 1) * rho
        found.append(mp.log(rho))
        if leak is None:
            delta = kept * delta + mp.mpf(beta) * rho**2
        else:
            delta = (1 - mp.mpf(leak)) * delta + mp.mpf(leak) * mp.mpf(beta) * rho**2
    return [mp.nstr(x, 25) for x in found]


if __name__ == "__main__":
    written = {
        "overlap_times": overlap_times(),
        "relaxed": relaxed(),
        "attention": layers(6, "1", 8),
        "leaky": layers(6, "4", 40, leak="0.5"),
        "accumulated": layers(6, "1", 40, kept=1),
    }
    path = Path(__file__).parents[1] / "depth_reference.json"
    path.write_text(json.dumps(written, indent=1) + "\n")
