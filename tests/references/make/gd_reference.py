"""Gradient descent on u and v at 200 digits: writes gd_reference.json beside this script.

    u⁺ = (1 − ηλ)u + ηg⊙v,  v⁺ = (1 − ηλ)v + ηg⊙u,  g = Xᵀ(y − X(u⊙v))

in the plain factors: s = u + v and d = u − v are only read off. They come to differ by
e^±150, hence the digits. Weight 0 is active after some twenty steps; until then ηg < −1 for
weight 1 and ηg > 1 for weight 2, so that s of one and d of the other change sign every
step. Later both become active.

    python tests/references/make/gd_reference.py            # seconds
"""

import json
from pathlib import Path

import mpmath as mp

mp.mp.dps = 200

INPUTS = [["1", "-2.5", "2.5"], ["0", "2.5", "2.5"], ["0", "2.75", "0"], ["0", "0", "2.75"]]
TARGETS = ["0.8", "0", "-0.1", "0.12"]
START = {"u": ["1e-3", "1e-30", "2e-30"], "v": ["4e-4", "-3e-31", "1e-30"]}
RATE = "0.5"
DECAYS = ("0", "0.03125")
STEPS = (0, 1, 2, 3, 7, 15, 30, 60, 120, 240, 480, 960)


def main():
    X, y, rate = mp.matrix(INPUTS), mp.matrix(TARGETS), mp.mpf(RATE)
    H, b = (X.T * X).tolist(), list(X.T * y)
    result = {"inputs": INPUTS, "targets": TARGETS, "learning_rate": RATE, "runs": []}
    result |= {f"{k}0": START[k] for k in "uv"}
    for decay in DECAYS:
        keep = 1 - rate * mp.mpf(decay)
        u, v = ([mp.mpf(x) for x in START[k]] for k in "uv")
        rows, flips = [], 0
        for step in range(max(STEPS) + 1):
            theta = [x * y for x, y in zip(u, v, strict=True)]
            if step in STEPS:
                s = [x + y for x, y in zip(u, v, strict=True)]
                d = [x - y for x, y in zip(u, v, strict=True)]
                rows.append(
                    {
                        "step": step,
                        "theta": [mp.nstr(x, 30) for x in theta],
                        "log_s": [mp.nstr(mp.log(abs(x)), 30) for x in s],
                        "log_d": [mp.nstr(mp.log(abs(x)), 30) for x in d],
                        "sign_s": [int(mp.sign(x)) for x in s],
                        "sign_d": [int(mp.sign(x)) for x in d],
                    }
                )
                print(decay, step, *[mp.nstr(x, 6) for x in (*theta, *s, *d)])
            kick = [rate * (b[i] - mp.fdot(H[i], theta)) for i in range(len(u))]
            flips += kick[1] < -1
            u, v = (
                [keep * x + k * y for x, k, y in zip(u, kick, v, strict=True)],
                [keep * y + k * x for x, k, y in zip(u, kick, v, strict=True)],
            )
        result["runs"].append({"decay": decay, "steps_below_minus_one": flips, "rows": rows})
    path = Path(__file__).parents[1] / "gd_reference.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
