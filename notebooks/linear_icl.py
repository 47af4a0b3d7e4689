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
# # Attention learns to regress: one drop, or one a direction
#
# Prompts (x₁, y₁) … (x_N, y_N), x_q with y = wᵀx and a task w of their own: linear attention
# answers ŷ = βᵀM x_q, β = (1/N) Σ y_n x_n. When key and query are one matrix, M = Σ v_i U_i and
# the origin is a saddle of order two. When they are two, M = Σ v_i K_iᵀQ_i, and every saddle on
# the way is of order three (Zhang, Singh, Latham, Saxe 2025). The loss over all prompts is exact.

# %%
import math

import jax
import matplotlib.pyplot as plt
import numpy as np

import gflow
import theory
from theory import linear_icl

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS = gflow.plot.COLOURS
EXACT = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}

EIGENVALUES, CONTEXT = [0.4, 0.3, 0.2, 0.1], 31
objective = gflow.objectives.InContextRegression(EIGENVALUES, CONTEXT)
plateaus = linear_icl.plateaus(EIGENVALUES, CONTEXT) / 2  # of ½E(y − ŷ)²
print("plateaus:", plateaus)

# %% [markdown]
# ## Merged: one drop, after ln(1/ε)
# All of M grows together, at the rate ‖Λ²‖, in D scalars that `merged_from` solves: from 10⁻² and
# from 10⁻¹⁰⁰ alike.

# %%
rate = np.linalg.norm(np.square(EIGENVALUES))
figure, a = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
for n, size in enumerate((1e-2, 1e-6, 1e-100)):
    log_size = math.log(size)
    model = gflow.models.MergedHeads.small(4, 8, log_epsilon=log_size, key=jax.random.key(0))
    run = gflow.simulate(model, objective, t1=(15 - 1.6 * log_size) / rate, rtol=1e-9)
    v, u = (np.asarray(w.value) for w in (model.value, model.key_query))
    exact = linear_icl.merged_from(v, u, EIGENVALUES, CONTEXT, run.t)
    assert theory.compare(run, linear_icl.predict(model, objective)).passed
    label = rf"$\varepsilon = 10^{{{round(math.log10(size))}}}$"
    a.plot(run.t / -log_size, run.loss, color=COLOURS[n], lw=2.2, alpha=0.55, label=label)
    a.plot(run.t / -log_size, exact.loss / 2, **EXACT)
a.set(xlabel=r"$t/\ln(1/\varepsilon)$", ylabel="loss", xlim=(0, 8.5), title="merged")
a.plot([], [], **EXACT, label="exact")
a.legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## Separate: one drop a direction, after 1/ε
# On a plateau every dormant head has a clock of its own; the first to blow up learns the largest
# eigenvalue left. `drops` knows when, and which head. Heads of rank one are units (value, key and
# query of a head together), which `gflow.simulate` follows through all drops from any size: at
# 10⁻¹⁰⁰ each wait is some 10¹⁰¹ long, a drop lasts about 100.

# %%
figure, (b, c) = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained")
for n, size in enumerate((1e-3, 1e-100)):
    log_size = math.log(size)
    model = gflow.models.SeparateHeads.small(4, 5, log_epsilon=log_size, key=jax.random.key(1))
    v, key, query = (np.asarray(w.value) for w in (model.value, model.key, model.query))
    k, q = np.swapaxes(key, 1, 2), np.swapaxes(query, 1, 2)
    times, heads = linear_icl.drops(v, k, q, EIGENVALUES, CONTEXT)
    run = gflow.simulate(model, objective, t1=1.2 * times[-1], rtol=1e-9)
    comparison = theory.compare(run, linear_icl.predict(model, objective))
    assert comparison.passed
    label = rf"$\varepsilon = 10^{{{round(math.log10(size))}}}$"
    lines = {"lw": 3.0 - 1.4 * n, "alpha": 0.6}
    b.plot(size * run.t, run.loss, color=COLOURS[n], **lines, label=label)
    print(f"ε = {size:g}: {len(run.t)} steps; half-drops at ε t =", size * times, "by heads", heads)
for m, t in enumerate(times):
    label = "predicted" if m == 0 else None
    b.vlines(size * t, plateaus[m + 1], plateaus[m], **EXACT, zorder=3, label=label)
b.set(xlabel=r"$\varepsilon t$", ylabel="loss", title="separate, rank one")
b.legend(fontsize="x-small")

inverse = np.exp(log_size - run.leaves["value"]["log_size"])  # ε over the norm of every head
for number, head in enumerate([*heads, *(set(range(5)) - set(heads))]):
    label, colour = (f"drop {number + 1}", COLOURS[number]) if number < 4 else ("dormant", "0.5")
    c.plot(size * run.t, inverse[:, head], color=colour, lw=2.2, alpha=0.6, label=label)
c.plot(size * times, 0 * times, "kx", clip_on=False, label="predicted")
c.set(xlabel=r"$\varepsilon t$", ylabel=r"$\varepsilon$ / norm of a head", ylim=(0, None))
c.set_title(r"from $10^{-100}$")
c.legend(fontsize="x-small")
plt.show()
print(comparison)
halves = [row for row in comparison.closed_forms if "half" in row.part]
assert all(abs(row.measured / row.predicted - 1) < 1e-7 for row in halves)

# %% [markdown]
# ## Weights or context
# Here 60 % of the prompts have one task in common, which weights can learn without reading the
# context. That grows faster and comes first; then attention learns to regress in context, which
# serves all prompts, and what the weights knew is given up. The first escape and the end are known.

# %%
white, task = np.full(4, 0.25), np.array([1.0, 1.0, -1.0, 1.0])
shared = gflow.objectives.SharedTaskRegression(white, CONTEXT, task, share=0.6)
tests = {
    "in_context": gflow.objectives.SharedTaskRegression(white, CONTEXT, task, share=0.0),
    "in_weights": gflow.objectives.SharedTaskRegression(white, CONTEXT, task, 1.0, shown=False),
}
value, key_query = (
    np.array(jax.random.normal(k, (8, 5, 5))) for k in jax.random.split(jax.random.key(0))
)
value[:, -1, :-1] = key_query[:, -1, :-1] = 0.0  # the blocks that mix x and y
blocks = gflow.models.LinearSelfAttention(
    gflow.Scaled(value, math.log(1e-6)), gflow.Scaled(key_query, math.log(1e-6))
)
run = gflow.simulate(blocks, shared, t1=130.0, rtol=1e-10, observables=tests)
known = linear_icl.shared_task(shared)
figure, d = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
d.plot(run.t, run.loss, color=COLOURS[0], lw=2.2, alpha=0.6, label="loss")
for colour, name in zip(COLOURS[1:], tests, strict=False):
    label = f"test, {name.replace('_', ' ')}"
    d.plot(run.t, run.observables[name], color=colour, lw=2.2, alpha=0.6, label=label)
d.axhline(known.loss / 2, **EXACT, label="minimum of the loss")
d.axvline(
    math.log(1e6) / known.rates[0], color="0.4", lw=0.9, label=r"$\ln(1/\varepsilon)/\sigma_1$"
)
d.set(xlabel="flow time $t$", ylabel="half squared error", ylim=(0, 0.75))
d.legend(fontsize="x-small", ncols=2)
plt.show()
lowest = np.argmin(run.observables["in_weights"])
print("rates:", known.rates)
assert run.observables["in_weights"][lowest] < 0.2 < 0.45 < run.observables["in_weights"][-1]
assert run.observables["in_context"][lowest] > 0.45 > 0.1 > run.observables["in_context"][-1]
