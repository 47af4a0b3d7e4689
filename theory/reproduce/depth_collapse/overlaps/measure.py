"""The flow of particles from orthonormal tokens, beside the quadrature of one overlap."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gflow import depth
from theory import depth_collapse

from ... import Report
from ..settings import Settings

PAPER = "Geshkovski et al. 2024, arXiv 2312.10794"
TOKENS = 6
CASES = (("softmax", 0.0, 20.0), ("softmax", 2.0, 20.0), ("softmax", 5.0, 30.0),
         ("unnormalised", 2.0, 3.0))  # fmt: skip


class Course(NamedTuple):
    """ln(1 − γ) of the particles at these times."""

    kind: str
    beta: float
    t: np.ndarray
    log_apart: np.ndarray


def overlaps(report: Report, settings: Settings) -> list[Course]:
    eye, found = jnp.eye(TOKENS), []
    for kind, beta, end in CASES:
        if kind not in settings.kinds:
            continue
        block = depth.OnSphere(
            depth.Attention(eye, eye, eye, jnp.asarray(beta), normalised=kind == "softmax")
        )
        run = depth.flow(block, eye, end, save=np.linspace(0.0, end, 41))
        exact = depth_collapse.equal_overlap(TOKENS, beta, run.t, kind)
        measured, bars = run.observables["correlation"], run.error["correlation"]
        worst = int(np.argmax(np.abs(measured - exact)))
        key = f"overlap.{kind}.beta{beta:g}"
        report.add(
            f"{key}.course", float(exact[worst]), float(measured[worst]), 1e-7,
            float(np.max(bars)), paper=PAPER, text=f"γ(t), β = {beta:g}, the worst of 41 times",
        )  # fmt: skip
        left, late = run.observables["log_apart"], run.error["log_apart"]
        width = float(run.t[-1] - run.t[-3])
        rate = float(depth_collapse.final_rate(beta, kind))
        # the next order is what is left, e^{-rate t}
        report.add(
            f"{key}.rate", rate, float(left[-3] - left[-1]) / width, 1e-6 * rate,
            float(np.max(late[-3:])) / width, unit="1/time", paper=PAPER,
            text=f"rate at which 1 − γ falls, β = {beta:g}, at 1 − γ = {np.exp(left[-1]):.1g}",
        )  # fmt: skip
        found.append(Course(kind, beta, run.t, left))
    layers, alpha = 30, 0.3
    clock = 0.5 * layers * np.log1p(alpha**2)
    report.add(
        "overlap.clock", float(depth_collapse.correlation(layers, TOKENS, alpha)),
        float(depth_collapse.equal_overlap(TOKENS, 0.0, clock)), 1e-13, 1e-15, paper=PAPER,
        text="γ of the flow at β = 0 is ρ of layers, 2t = L ln(1 + α₁²)",
    )  # fmt: skip
    return found
