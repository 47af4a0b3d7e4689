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
# eigenvalue left. `drops` knows when, and which head.

# %%
figure, b = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
for n, size in enumerate((1e-3, 1e-4)):
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
print("half-drops of the last run at ε t =", size * times, "by heads", heads)
for m, t in enumerate(times):
    label = "predicted" if m == 0 else None
    b.vlines(size * t, plateaus[m + 1], plateaus[m], **EXACT, zorder=3, label=label)
b.set(xlabel=r"$\varepsilon t$", ylabel="loss", title="separate, rank one")
b.legend(fontsize="x-small")
plt.show()
print(comparison)

# %% [markdown]
# ## From 10⁻¹⁰⁰
# `gflow.escape` follows the way out of a saddle of order three in a clock of its own. The time
# times ε hardly depends on ε; the rise at its end, from norm 0.05 to 0.1, does not at all.

# %%
for size in (1e-4, 1e-20, 1e-100):
    log_size = math.log(size)
    model = gflow.models.SeparateHeads.small(4, 5, log_epsilon=log_size, key=jax.random.key(1))
    out = gflow.escape(model, objective, level=0.1, rtol=1e-9)
    v, key, query = (np.asarray(w.value) for w in (model.value, model.key, model.query))
    k, q = np.swapaxes(key, 1, 2), np.swapaxes(query, 1, 2)
    blow_up = linear_icl.head_times(v, k, q, EIGENVALUES).min()
    predicted = blow_up - 1 / (EIGENVALUES[0] ** 2 * 0.1)
    rise = out.at_norm(0.05).remaining
    print(f"ε = {size:g}: εt = {size * out.t[-1]:.8f}, predicted {size * predicted:.8f}", end="; ")
    print(f"rise {rise:.4f}, {len(out.t)} steps")
    assert abs(out.t[-1] / predicted - 1) < 1e-4
