"""What every closed form is put to: wrong copies of its curves and numbers, to be refuted."""

import dataclasses

import numpy as np

import theory

CHANGES = ("factor", "clock", "slow", "shift", "end", "sign")


def wrong_curves(curve, began=0.0):
    """The same curve wrong by a sign, a factor 2, its clock, a shift in time, all but its end."""
    f = curve.value
    changes = {
        "factor": lambda t: 2.0 * f(t),
        "clock": lambda t: f(began + 2.0 * (t - began)),
        "slow": lambda t: f(began + 0.5 * (t - began)),
        "shift": lambda t: f(t + 0.03 * (t[-1] - t[0])),
        "end": lambda t: np.broadcast_to(f(t[-1:]), f(t).shape),
        "sign": lambda t: -f(t),
    }
    return {what: dataclasses.replace(curve, value=value) for what, value in changes.items()}


def check_falsified(run, prediction, but=()):
    """Every wrong copy of one part is refuted, and that part alone.

    `but`: pairs (label, change) that change nothing.
    """
    claims = {c.key: c.verdict for c in theory.compare(run, prediction).claims}
    for k, curve in enumerate(prediction.curves):
        for what, wrong in wrong_curves(curve, curve.regime[0]).items():
            if (curve.label, what) in but:
                continue
            curves = (*prediction.curves[:k], wrong, *prediction.curves[k + 1 :])
            table = theory.compare(run, dataclasses.replace(prediction, curves=curves))
            found = {c.key: c.verdict for c in table.claims}
            assert found[curve.label] == "refuted", f"{curve.label}: {what}\n{table}"
            assert {**found, curve.label: ""} == {**claims, curve.label: ""}
            assert not table.passed
    for k, number in enumerate(prediction.numbers):
        if isinstance(number.predicted, int):
            values = [number.predicted + 1, number.predicted - 1]
        elif number.predicted == 0.0:
            values = [0.1 * number.size]
        else:
            values = [2.0 * number.predicted, 0.5 * number.predicted, -number.predicted]
        for value in values:
            wrong = dataclasses.replace(number, predicted=value)
            numbers = (*prediction.numbers[:k], wrong, *prediction.numbers[k + 1 :])
            table = theory.compare(run, dataclasses.replace(prediction, numbers=numbers))
            found = {c.key: c.verdict for c in table.claims}
            assert found[number.label] == "refuted", f"{number.label}: {value}\n{table}"
