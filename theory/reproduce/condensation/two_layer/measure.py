"""Two-layer networks condense: orientations and escape times for three activations.

Inputs in two dimensions, squared loss, 40 neurons of size ε: tanh (p = 1), where the whole
network is followed, z·tanh z (p = 2) and z²·tanh z (p = 3), where neurons blow up one after
another, so that each is also followed alone, until it has grown to LEVEL.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.plot import COLOURS

from .... import two_layer_condensation as theory
from ..._report import Report
from ...exact_linear.runs import EXACT, SIMULATED, TIME, new_figure

#: A draw for which h takes both signs where p = 2, so that all four critical angles attract; with
#: one sign only two do, and slowly.
SEED = 27
NEURONS, EXAMPLES, RTOL = 40, 12, 1e-10
#: Size ρ = √(p a² + ‖w‖²) up to which neurons are followed where p ≥ 2.
LEVEL = 0.03
#: 1 − |cos| is off by a relative error of w³/ε times a constant that depends on the data, about 100
#: here for the neuron that starts nearest to g: its slope is compared up to this w³/ε.
CUBE = 1e-4
CRITICAL = {"color": "0.5", "lw": 1.1, "ls": (0, (1, 1.5))}
#: An angle this close to an orientation (radian) has reached it.
NEAR = 0.03
NAMES = {1: "tanh z", 2: "z tanh z", 3: "z² tanh z"}
FORMULAS = {1: r"$\tanh z$", 2: r"$z\,\tanh z$", 3: r"$z^2\tanh z$"}


class TwoLayer(eqx.Module):
    """x ↦ Σ_j a_j σ(w_j·x), with σ(z) = (s₁ + s₂ z + s₃ z²) tanh z: one compilation for all p."""

    inner: Float[Array, "m d"]
    outer: Float[Array, " m"]
    share: gflow.Frozen

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = self.inner @ x
        s = self.share.value
        return self.outer @ ((s[0] + z * (s[1] + z * s[2])) * jnp.tanh(z))


class Setting:
    """Data of the three networks and their weights of size O(1)."""

    def __init__(self, neurons: int):
        rng = np.random.default_rng(SEED)
        self.x, self.y = rng.standard_normal((EXAMPLES, 2)), rng.standard_normal(EXAMPLES)
        self.outer = rng.standard_normal(NEURONS)[:neurons]
        self.inner = rng.standard_normal((NEURONS, 2))[:neurons]
        self.objective = gflow.objectives.SquaredLoss(self.x, self.y)

    def bound(self, p: int, level: float = LEVEL) -> float:
        """Largest relative error of h at size `level`, where z^{p−1} tanh z stands for z^p.

        That of σ is below z² ≤ (level·|x|)²; in h it grows by the cancellation Σ|y_i (w·x_i)^p| /
        |Σ y_i (w·x_i)^p|, the worst of all orientations.
        """
        limits = theory.orientations(self.x, self.y, p)
        angle = limits.angle[limits.attracts != 0]
        powers = (np.stack([np.cos(angle), np.sin(angle)], axis=1) @ self.x.T) ** p
        cancelled = np.max(np.abs(powers) @ np.abs(self.y) / np.abs(powers @ self.y))
        return float(level**2 * np.max(np.sum(self.x**2, axis=1)) * cancelled)

    def start(self, epsilon: float, p: int) -> TwoLayer:
        inner, outer = jnp.asarray(epsilon * self.inner), jnp.asarray(epsilon * self.outer)
        return TwoLayer(inner, outer, gflow.Frozen(jnp.eye(3)[p - 1]))

    def run(self, epsilon: float, p: int, t1: float, save=None) -> gflow.Trajectory:
        """The whole network."""
        return gflow.simulate(
            self.start(epsilon, p), self.objective, t1=t1, rtol=RTOL, save=save,
            error_bars=False,
        )  # fmt: skip

    def alone(self, epsilon: float, p: int, t1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every neuron by itself until its own time: outer (m,), inner (m, 2) there."""
        one, share = self.start(epsilon, p), jnp.broadcast_to(jnp.eye(3)[p - 1], (len(t1), 3))
        stacked = TwoLayer(one.inner[:, None], one.outer[:, None], gflow.Frozen(share))
        runs = gflow.simulate_batch(stacked, self.objective, t1=t1, rtol=RTOL, error_bars=False)
        ends = [[run.observables[n][-1, 0] for n in ("outer", "inner")] for run in runs]
        outer, inner = (np.array(x) for x in zip(*ends, strict=True))
        return outer, inner


def two_layer(report: Report) -> None:
    """Closed forms for p = 1 and critical angles for p = 2, 3, beside simulations."""
    setting = Setting(14 if report.fast else NEURONS)
    scales = [1e-4, 1e-6] if report.fast else [1e-3, 1e-4, 1e-5, 1e-6]
    report.settings.update(two_layer_epsilon=scales, two_layer_level=LEVEL, two_layer_rtol=RTOL)
    figure, axes = new_figure(2, 2)
    aligned(report, setting, scales, axes[0, 0])
    aligned_angles(report, setting, axes[0, 1])
    for p, ax in zip((2, 3), axes[1], strict=True):
        blown_up(report, setting, scales, p)
        blown_up_angles(report, setting, p, ax)
    report.figure(figure, "two_layer")


def angles(inner: np.ndarray) -> np.ndarray:
    """Of the rows (m, 2), in [0, 2π)."""
    return np.arctan2(inner[:, 1], inner[:, 0]) % (2 * math.pi)


def nearest(angle: np.ndarray, limits: theory.Orientations) -> np.ndarray:
    """Distance of every angle to the nearest one that attracts."""
    wanted = limits.angle[limits.attracts != 0]
    return np.min(np.abs(np.angle(np.exp(1j * (angle[:, None] - wanted)))), axis=1)


def defects(inner: np.ndarray, g: np.ndarray) -> np.ndarray:
    """1 − |cos(w, g)| without cancellation."""
    unit = g / np.linalg.norm(g)
    along = inner @ unit
    across = np.linalg.norm(inner - along[..., None] * unit, axis=-1)
    length = np.hypot(along, across)
    return across**2 / (length * (length + np.abs(along)))


def aligned(report: Report, setting: Setting, scales: list[float], ax) -> None:
    """tanh: the course of 1 − |cos|, and the escape time, for every ε."""
    g = theory.force(setting.x, setting.y)
    rate = float(np.linalg.norm(g))
    escapes = []
    for eps, colour in zip(scales, COLOURS, strict=False):
        a, w = eps * setting.outer, eps * setting.inner
        end = theory.linear_escape(a, w, g, 0.1)
        run = setting.run(eps, 1, end, save=np.linspace(0.0, end, 200))
        defect = defects(run.observables["inner"], g)
        exact = theory.linear_course(a, w, g, run.t).defect
        size = np.linalg.norm(run.observables["outer"], axis=1)
        slopes(report, eps, run.t, size, defect, exact, rate)
        escapes.append(np.interp(math.log(0.01), np.log(size), run.t))
        report.add(f"two-layer.p1.eps{eps:g}.escape-time", theory.linear_escape(a, w, g, 0.01),
                   escapes[-1], 1e-3 / rate, unit="flow time",
                   text="tanh z: until √Σa² = 0.01")  # fmt: skip
        ax.semilogy(run.t, np.median(defect, axis=1), color=colour, **SIMULATED,
                    label=rf"$\varepsilon = 10^{{{round(math.log10(eps))}}}$")  # fmt: skip
        ax.semilogy(run.t, np.median(exact, axis=1), **EXACT)
    slope = (escapes[-1] - escapes[-2]) / math.log(scales[-2] / scales[-1])
    report.add("two-layer.p1.escape-slope", 1 / rate, slope, 1e-3 / rate, unit="flow time",
               text="tanh z: slope of the escape time against ln(1/ε), 1/‖g‖")  # fmt: skip
    ax.plot([], [], **EXACT, label="closed form")
    ax.set(xlabel=TIME, ylabel=r"$1 - |\cos(w_j, g)|$, median over $j$")
    ax.text(0.98, 0.97, "the closed form holds while $w^3 \\ll \\varepsilon$", ha="right", va="top",
            fontsize="x-small", transform=ax.transAxes)  # fmt: skip
    ax.legend(fontsize="x-small", ncols=2, loc="lower left")
    ax.set_title(rf"$p = 1$: {FORMULAS[1]}")


def slopes(report, eps, t, size, defect, exact, rate) -> None:
    """Slope of ln(1 − |cos|) while the closed form holds, and how it ceases to hold."""
    gap = np.max(np.abs(np.log(defect / exact)), axis=1)
    valid = size**3 < CUBE * eps
    if not np.any(valid) or size[valid][-1] < 3 * size[0]:
        report.say(f"tanh z, ε = {eps:g}: too large for a slope, as w³ > {CUBE:g} ε so soon")
        return
    late = (size > 5 * size[0]) & (gap > 1e-3) & (gap < 0.1)
    power = np.polyfit(np.log(size[late]), np.log(gap[late]), 1)[0]
    report.say(f"tanh z, ε = {eps:g}: 1 − |cos| of the worst neuron departs from the closed form "
               f"as w^{power:.2f} (expected: 3, for ε ≪ w)")  # fmt: skip
    inside = valid & (t >= 0.5 * t[valid][-1])
    measured, expected = (
        np.polyfit(t[inside], np.mean(np.log(x[inside]), axis=1), 1)[0] for x in (defect, exact)
    )
    report.say(f"tanh z, ε = {eps:g}: slope of ln(1 − |cos|) {measured:.5f}, by the closed form "
               f"{expected:.5f}, −2‖g‖ = {-2 * rate:.5f}")  # fmt: skip
    report.add(f"two-layer.p1.eps{eps:g}.angle-slope", expected, measured, 0.01 * 2 * rate,
               unit="1/flow time",
               text="tanh z: slope of ln(1 − |cos|), mean over neurons")  # fmt: skip


def aligned_angles(report: Report, setting: Setting, ax) -> None:
    """tanh z: all neurons of one network, at the time when they have size 0.01."""
    eps = 1e-5
    g = theory.force(setting.x, setting.y)
    a, w = eps * setting.outer, eps * setting.inner
    run = setting.run(eps, 1, theory.linear_escape(a, w, g, 0.01))
    inner, outer = (run.observables[n][-1] for n in ("inner", "outer"))
    limits = theory.orientations(setting.x, setting.y, 1)
    course = theory.linear_course(a, w, g, run.t[-1])
    angles_panel(
        report, ax, setting, angles(inner), np.sign(outer), angles(course.inner), limits, 1
    )


def blown_up(report: Report, setting: Setting, scales: list[float], p: int) -> None:
    """The network until its first neuron has grown to LEVEL, and what that neuron conserves."""
    name, bound = NAMES[p], setting.bound(p)
    measured = []
    for eps in scales:
        a, w = eps * setting.outer, eps * setting.inner
        later = theory.two_layer_escapes(a, w, setting.x, setting.y, p, 2 * LEVEL)
        escapes = theory.two_layer_escapes(a, w, setting.x, setting.y, p, LEVEL)
        first = int(np.nanargmin(escapes.time))
        around = (later.time - escapes.time)[first] * np.linspace(-1.0, 1.0, 41)
        save = np.clip(escapes.time[first] + around, 0.0, later.time[first])
        run = setting.run(eps, p, later.time[first], save=save)
        inner, outer = run.observables["inner"], run.observables["outer"]
        rho = np.sqrt(p * outer**2 + np.sum(inner**2, axis=2))[:, first]
        # near a blow-up ρ^{1−p} is linear in time
        crossing = np.interp(-(LEVEL ** (1 - p)), -(rho ** (1 - p)), run.t)
        measured.append(crossing)
        report.add(f"two-layer.p{p}.eps{eps:g}.escape-time", 1.0, crossing / escapes.time[first],
                   bound, text=f"{name}: flow time until the first neuron has ρ = {LEVEL:g}, over "
                   "its prediction")  # fmt: skip
        kept = np.sum(inner**2, axis=2) - p * outer**2
        inside = rho <= LEVEL
        drift = np.max(np.abs(kept - kept[0])[inside] / rho[inside, None] ** 2)
        report.add(f"two-layer.p{p}.eps{eps:g}.balance", 0.0, float(drift), bound,
                   text=f"{name}: largest change of ‖w‖² − {p}a², relative to ρ²")  # fmt: skip
        if eps == scales[-1]:
            i = int(np.argmin(np.abs(np.log(rho / LEVEL))))
            limits = theory.orientations(setting.x, setting.y, p)
            there = int(np.sum(nearest(angles(inner[i]), limits) < NEAR))
            report.say(
                f"{name}: when the first neuron of the network escapes, {there} of {len(a)} point "
                "to an orientation; the others get there at their own blow-up"
            )
    power = math.log(measured[-1] / measured[-2]) / math.log(scales[-1] / scales[-2])
    report.add(f"two-layer.p{p}.escape-exponent", float(1 - p), float(power), bound,
               text=f"{name}: exponent of ε in the escape time")  # fmt: skip


def blown_up_angles(report: Report, setting: Setting, p: int, ax) -> None:
    """Every neuron alone from ε = 1e-5 to LEVEL: where it points, and how many orientations."""
    eps = 1e-5
    a, w = eps * setting.outer, eps * setting.inner
    limits = theory.orientations(setting.x, setting.y, p)
    escapes = theory.two_layer_escapes(a, w, setting.x, setting.y, p, LEVEL)
    alive = np.flatnonzero(np.isfinite(escapes.time))
    angle = np.full(len(a), math.nan)
    sign = np.full(len(a), math.nan)
    outer, inner = setting.alone(eps, p, np.where(np.isfinite(escapes.time), escapes.time, 1.0))
    angle[alive] = angles(inner[alive])
    sign[alive] = np.sign(outer[alive])
    angles_panel(report, ax, setting, angle, sign, escapes.angle, limits, p)


def angles_panel(report, ax, setting, angle, sign, predicted, limits, p) -> None:
    """Angle of every neuron at its escape against that at the start, and the orientations."""
    start = angles(setting.inner)
    gap = np.abs(np.angle(np.exp(1j * (angle - predicted))))
    alive = np.isfinite(angle)
    report.add(f"two-layer.p{p}.angles", 0.0, float(np.max(gap[alive])), setting.bound(p),
               unit="rad", text=f"{NAMES[p]}: largest error of an angle at escape")  # fmt: skip
    wanted = limits.angle[limits.attracts != 0]
    distance = nearest(angle[alive], limits)
    which = np.argmax(np.cos(angle[alive, None] - wanted[None]), axis=1)
    reached = np.unique(which[distance < NEAR])
    report.add(f"two-layer.p{p}.orientations", len(wanted), len(reached), 0.0,
               text=f"{NAMES[p]}: orientations reached within {NEAR:g} rad")  # fmt: skip
    report.say(
        f"{NAMES[p]}: {len(limits.angle)} critical angles (at most {2 * p}), {len(wanted)} of them "
        f"attract; {int(np.sum(distance < NEAR))} of {len(angle)} neurons point "
        f"there to {NEAR:g} rad when they escape, {int(np.sum(~alive))} never escape"
    )
    degrees = 180 / math.pi
    for value, attracts in zip(limits.angle, limits.attracts, strict=True):
        ax.axhline(value * degrees, **(EXACT if attracts else CRITICAL), zorder=0)
    for side, marker, colour in ((1, "^", COLOURS[0]), (-1, "v", COLOURS[1])):
        here = alive & (sign == side)
        ax.plot(start[here] * degrees, angle[here] * degrees, marker, color=colour, ms=4,
                label=rf"$a {'>' if side > 0 else '<'} 0$")  # fmt: skip
    ax.plot(start * degrees, predicted * degrees, "o", mfc="none", mec="black", ms=7, mew=0.7,
            label="predicted")  # fmt: skip
    ax.set(xlim=(0, 360), ylim=(0, 360), xticks=range(0, 361, 90), yticks=range(0, 361, 90))
    ax.set(xlabel="angle of $w_j$ at the start (°)", ylabel="angle at its escape (°)")
    if p == 1:
        ax.plot([], [], **EXACT, label="orientation that attracts")
        ax.plot([], [], **CRITICAL, label="critical, does not attract")
        ax.legend(fontsize="x-small", loc="lower left", ncols=2, columnspacing=1.0)
    ax.set_title(rf"$p = {p}$: {FORMULAS[p]}")
