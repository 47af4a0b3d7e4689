"""cos(H, G) along the flow, and eigenvalues of Z, H and G at rest."""

from typing import NamedTuple

import jax
import numpy as np

import gflow
import theory
from theory import symmetry

from ... import Report
from ..problem import FORMATION, Layers
from ..settings import Settings

TARGETS, DECAY, START, END = np.array([1.5, 1.0, 2.0]), 0.2, 1e-3, 12.0
#: Flow time in which the slowest mode, of rate 2ξ(d − λ/ξ) ≥ ½, and the imbalance e^{−2λt} rest.
REST = 120.0
SPECTRA = {
    "white": np.ones(6),
    "coloured": np.array([3.0, 2.0, 1.4, 1.0, 0.7, 0.5]),
}
SIX = np.array([1.0, 1.6, 0.8, 2.2, 1.3, 2.6])


class Courses(NamedTuple):
    """(t, cos(H, G)) of an aligned start, and of random ones of the same size."""

    aligned: tuple[np.ndarray, np.ndarray]
    random: list[tuple[np.ndarray, np.ndarray]]


class PowerLaws(NamedTuple):
    """By spectrum, at rest: eigenvalues of Z, and of H and G in the basis of Z."""

    found: dict[str, tuple[np.ndarray, ...]]


def courses(report: Report, settings: Settings) -> Courses:
    """White inputs: alignment is lost between the first mode and the last, and regained."""
    one = Layers(np.ones(3), TARGETS, DECAY)
    run = _course(one, one.aligned(START))
    curve = theory.Curve(
        "cos(H, G)",
        lambda t: symmetry.alignment(1.0, TARGETS, DECAY, 0.0, t, START),
        read=theory.from_weights(one.alignment),
        source=FORMATION,
        validity="balanced layers along the target",
    )
    report.compare(
        "alignment.course",
        theory.compare(run, theory.Prediction.of(curve)),
        "cos(H, G) of three modes from 1e-3, white inputs, decay 0.2:",
    )
    random = []
    for seed in range(settings.seeds):
        own = _course(one, one.random(np.sqrt(START / 3), 3, seed))
        random.append((own.t, one.alignment({k: own.observables[k] for k in ("first", "second")})))
    weights = {k: run.observables[k] for k in ("first", "second")}
    return Courses((run.t, one.alignment(weights)), random)


def _course(one: Layers, start: dict[str, jax.Array]) -> gflow.Trajectory:
    return gflow.simulate(
        start, one.objective, t1=END, decay=DECAY, rtol=1e-11, save=np.linspace(0.0, END, 200)
    )


def power_laws(report: Report, settings: Settings) -> PowerLaws:
    """Random starts, white inputs and others, with and without noise of the labels."""
    found = {}
    for name, variances in SPECTRA.items():
        for noise in (0.0, 0.1):
            one = Layers(variances, SIX, DECAY, noise)
            predicted = symmetry.representations(variances, SIX, DECAY, noise)
            for seed in range(settings.seeds):
                run = gflow.simulate(
                    one.random(0.5, 8, seed), one.objective, t1=REST, decay=DECAY, rtol=1e-10
                )
                weights = {k: np.asarray(x) for k, x in run.final.items()}
                bar = max(float(np.max(run.error[k][-1])) for k in weights)
                _judge(report, f"{name}.noise{noise:g}.seed{seed}", one, weights, predicted, bar)
            if noise == 0.0:
                found[name] = _in_one_basis(*one.grams(weights))
    return PowerLaws(found)


def _in_one_basis(z: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Eigenvalues of Z, and what the others have on its diagonal."""
    values, vectors = np.linalg.eigh(z)
    top = vectors[:, -len(SIX) :]
    return values[-len(SIX) :], *(np.diagonal(top.T @ x @ top) for x in others)


def _eigenvalues(matrix: np.ndarray, count: int) -> np.ndarray:
    return np.linalg.eigvalsh(matrix)[::-1][:count]


def _judge(
    report: Report,
    key: str,
    one: Layers,
    weights: dict[str, np.ndarray],
    predicted: symmetry.Representations,
    bar: float,
) -> None:
    matrices = one.grams(weights)
    for what, matrix, values in zip("ZHG", matrices, predicted, strict=True):
        expected, measured = np.sort(values)[::-1], _eigenvalues(matrix, len(values))
        worst = int(np.argmax(np.abs(measured - expected)))
        # what is left of the imbalance, e^{−2λt}
        report.add(
            f"rest.{key}.{what}", float(expected[worst]), float(measured[worst]), 1e-8,
            10.0 * bar, paper=FORMATION, text=f"the worst eigenvalue of {what} at rest, {key}",
        )  # fmt: skip
    z, h, g = matrices
    if one.noise == 0.0:
        law = np.linalg.norm(h @ g) / np.linalg.norm(z @ z)
        report.add(
            f"rest.{key}.power_law", one.decay**2, float(law), 1e-8, 10.0 * bar, paper=FORMATION,
            text=f"‖HG‖/‖Z²‖ at rest, which is λ², {key}",
        )  # fmt: skip
    cosine = float(one.alignment(weights))
    expected = symmetry.alignment(one.variances, one.targets, one.decay, one.noise)
    report.add(
        f"rest.{key}.alignment", float(expected), cosine, 1e-8, 10.0 * bar, paper=FORMATION,
        text=f"cos(H, G) at rest, {key}",
    )  # fmt: skip
