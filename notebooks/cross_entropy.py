# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Cross-entropy: logits that grow for ever
#
# Separable data have no finite minimum of the cross-entropy: logits grow like log t, and what can
# converge is a direction, as 1/log t. A run without an end goes on until directions rest; where the
# softmax keeps its singular vectors, the logits are known in closed form at any time and any size
# of the start (Garrod, Keating, Thrampoulidis 2025; Soudry et al. 2018).

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow
import theory
from theory import cross_entropy

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS = gflow.plot.COLOURS
EXACT = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}

# %% [markdown]
# ## Two layers, K classes, from 0.05 and from 1e-200
# W₂W₁ = a(t) (I − 11ᵀ/K): 2t = Ei(a) − Ei(a₀) + (K − 1) ln(a/a₀), up to t = 10¹².

# %%
K = 5
objective = gflow.objectives.CrossEntropy(np.eye(K), np.arange(K))
figure, a_of_t = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
for n, size in enumerate((5e-2, 1e-30, 1e-200)):
    first, second = cross_entropy.etf_start(K, size, K, key=jax.random.key(0))
    model = gflow.models.FactoredLinear(gflow.Factored(second, first.T))
    run = gflow.simulate(model, objective, t1=1e12, rtol=1e-10)
    comparison = theory.compare(run, cross_entropy.predict(model, objective))
    assert comparison.counts["confirmed"] >= 2
    assert comparison.counts["refuted"] == 0
    a = np.trace(run.observables["weight"], axis1=1, axis2=2) / (K - 1)
    exact = cross_entropy.etf_logit(K, size, run.t)
    print(f"a(0) = {size:g}: {len(run.t)} steps, a off by {np.max(np.abs(a / exact - 1)):.1e}")
    a_of_t.semilogx(run.t[1:], a[1:], "os^"[n], mec=COLOURS[n], mfc="white", ms=3.5, markevery=4,
                    label=f"a(0) = {size:g}")  # fmt: skip
    grid = np.geomspace(1.0, 1e12, 300)
    a_of_t.semilogx(grid, cross_entropy.etf_logit(K, size, grid), **EXACT)
a_of_t.plot([], [], **EXACT, label="closed form")
a_of_t.set(xlabel="flow time $t$", ylabel="logit $a$", xlim=(1, 1e12))
a_of_t.legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## A model of your own, to infinity
# No end is given. The run says how it ended, and `heading` where it goes: the hard-margin
# separator, here known from a linear programme and least squares.


# %%
class Linear(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


rng = np.random.default_rng(3)
direction = rng.normal(size=3)
labels = np.where(np.arange(20) % 2, 1, -1)
inputs = rng.normal(size=(20, 3))
inputs += 2 * labels[:, None] * direction / np.linalg.norm(direction)
assert cross_entropy.separable(inputs, labels)
margin = gflow.objectives.MarginLoss(inputs, labels, loss="logistic")
goal = cross_entropy.max_margin(inputs, labels)
run = gflow.simulate(
    Linear(jnp.zeros(3)), margin,
    observables={"angle": gflow.observables.angle("weight", goal.weights)},
)  # fmt: skip
print(run)
heading = run.heading("weight")
off = np.linalg.norm(heading.direction - goal.weights * goal.margin)
print(f"left {heading.left:.4f} rad, known to {heading.error:.4f}; the separator is {off:.1e} away")
assert run.status is gflow.Status.directional
assert off <= heading.error
late = run.t > 1e3
figure, right = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
right.plot(1 / np.log(run.t[late]), run.observables["angle"][late], "o", mec=COLOURS[0],
           mfc="white", ms=4, label="angle of the flow")  # fmt: skip
law = cross_entropy.late_separator(inputs, labels)
assert law.complete  # the examples on the margin span the inputs
times = np.geomspace(1e3, run.t[-1], 100)
at = law.at(times)
cosines = at @ goal.weights / np.linalg.norm(at, axis=1) * goal.margin
right.plot(1 / np.log(times), np.arccos(np.minimum(cosines, 1)), **EXACT, label="late law")
right.set(xlabel=r"$1/\log t$", ylabel="angle to the separator [rad]", xlim=(0, None))
right.set_ylim(0, None)
right.legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## Words that mean something together
# A transformer learns that μ₁ and μ₂ occur together (Yang et al. 2024). Whatever its weights do,
# d/dt ‖Σ a_j w_j‖² = (2m₁/n) Σ g_i y_i F_i; from a small start scores get the signs of the theory.

# %%
task = gflow.tasks.word_cooccurrence(24, 4, 55, key=jax.random.key(0))
model = gflow.models.PooledTransformer.small(55, 16, 32, log_epsilon=-2.3, key=jax.random.key(1))


def outputs(model):
    return jax.vmap(model)(task.inputs)


def scores(model):
    return model.scores(task.words)


run = gflow.simulate(
    model, task.objective, t1=300.0, observables={"outputs": outputs, "scores": scores}
)
kinds, losses = np.asarray(task.kinds), np.logaddexp(0, -task.labels * run.observables["outputs"])
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained")
for kind, name in enumerate(("both words", "the first", "the second", "neither")):
    mean = np.mean(losses[:, kinds == kind], axis=1)
    left.semilogx(run.t[1:], mean[1:], color=COLOURS[kind], marker="osD^"[kind], mfc="white",
                  ms=3.5, markevery=(3 * kind, 12), label=name)  # fmt: skip
left.set(xlabel="flow time $t$", ylabel="loss", xlim=(0.01, 300))
left.legend(fontsize="x-small")
change = run.observables["scores"] - run.observables["scores"][0]
for n, (i, j) in enumerate(((0, 1), (1, 0), (2, 0), (2, 1))):
    label = rf"$(\mu_{i + 1}, \mu_{j + 1})$"
    right.semilogx(run.t[1:], change[1:, i, j], color=COLOURS[n], marker="osD^"[n], mfc="white",
                   ms=3.5, markevery=(3 * n, 12), label=label)  # fmt: skip
right.axhline(0.0, color="0.7", lw=0.6)
right.set(xlabel="flow time $t$", ylabel="change of the score", xlim=(0.01, 300))
right.legend(fontsize="x-small")
plt.show()
assert np.all(change[-1][[0, 1], [1, 0]] > 0)
assert np.all(change[-1][2, :2] < 0)
signs = np.asarray(model.signs.value)
norm2 = cross_entropy.readout_norm2(signs, run.observables["inner"])
rates = cross_entropy.balance_identity(run.observables["outputs"], task.labels, 32)
middle = len(run.t) // 2
slope = np.gradient(norm2, run.t, edge_order=2)[middle]
print(f"slope of the readout {slope:.4g} by differences, {rates[middle]:.4g} by the identity")
assert abs(slope / rates[middle] - 1) < 0.05
