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
# # Two linear layers, solved
#
# Gradient flow of ½‖Σ − W₂W₁‖² is nonlinear, yet from a balanced start, W₂ᵀW₂ − W₁W₁ᵀ = λI,
# the product W₂W₁ is known at every time (Saxe et al. 2014, Braun et al. 2022, Domine et al.
# 2024). `theory.exact_linear` evaluates it for any shape, bottlenecks included, from t = 0
# to t = ∞. Here the simulator is held against it: the two share nothing but the problem.

# %%
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow
from theory import exact_linear

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS = gflow.plot.COLOURS
EXACT = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}


# %%
def product(model):
    return model.product


def simulate(weights, target, t1):
    model = gflow.models.DeepLinear(weights)
    # inputs I and targets Σᵀ: the loss is ½‖Σ − W₂W₁‖²
    inputs = jnp.eye(target.shape[1])
    objective = gflow.objectives.SquaredLoss(inputs, target.T, reduction="half_sum")
    return gflow.simulate(model, objective, t1=t1, rtol=1e-10, observables={"product": product})


# %% [markdown]
# ## A small start learns one mode at a time
# A network 4–4–4 from random balanced weights of size 10⁻⁴. Its modes are not aligned with
# those of Σ, and the exact solution needs no alignment. The staircase of aligned modes
# (dotted: the time at which a mode is half learned, if all start at 10⁻⁸) is a good sketch.

# %%
rng = np.random.default_rng(0)
singular_values = np.array([3.0, 2.0, 1.2, 0.7])
left, right = (np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2))
target = left @ np.diag(singular_values) @ right.T

start = exact_linear.balanced_start((4, 4, 4), scale=1e-4, key=jax.random.key(1))
run = simulate(start, target, 20.0)
exact = exact_linear.two_layer(*start, target, run.t)
error = np.max(np.abs(run.observables["product"] - exact), axis=(1, 2)) / np.max(np.abs(target))
bar = np.max(run.error["product"]) / np.max(np.abs(target))
print(f"largest deviation {error.max():.1e}, the solver's own error bar {bar:.1e}")
assert error.max() < 1e-8

figure, (a, b) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
strengths = np.einsum("ok,toi,ik->tk", left, run.observables["product"], right)
modes = np.einsum("ok,toi,ik->tk", left, exact, right)
for k, s in enumerate(singular_values):
    a.plot(run.t, strengths[:, k], color=COLOURS[k], lw=2.2, alpha=0.55)
    a.plot(run.t, modes[:, k], **EXACT)
    a.text(20.3, s, f"$s = {s:g}$", va="center", fontsize="x-small")
a.plot([], [], color="0.4", lw=2.2, alpha=0.55, label="simulated")
a.plot([], [], **EXACT, label="exact")
for n, stage in enumerate(exact_linear.mode_stages(singular_values, 1e-8)):
    label = "half-time if aligned" if n == 0 else None
    a.axvline(stage.time, color="0.5", ls=(0, (1, 1.5)), lw=1, label=label)
a.set(xlabel="flow time $t$", ylabel="strength of the mode", xlim=(0, 23.5), ylim=(-0.1, 4.3))
a.legend(fontsize="x-small", loc="upper right")
b.semilogy(run.t, np.maximum(error, 1e-17), color=COLOURS[0], lw=1, label="simulated − exact")
b.axhline(bar, color="0.35", ls=(0, (5, 2)), lw=0.8, label="solver's error bar")
b.set(xlabel="flow time $t$", ylabel=r"relative to max$|\Sigma|$", ylim=(1e-17, 1e-8))
b.legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## Half of all square starts never arrive
# The sign of det W₂W₁ cannot change when λ = 0. Where it is the wrong one, the flow ends in
# the saddle that misses the weakest mode, with loss ½s². A simulation leaves that saddle after
# about 35/s, on rounding errors; the closed form stays, as the flow does.

# %%
blocked = (start[0] * np.array([-1.0, 1.0, 1.0, 1.0]), start[1])  # G = 0 still: W₁ → W₁D
for weights in (start, blocked):
    rest = exact_linear.resting_point(*weights, target)
    sign = np.linalg.det(weights[1] @ weights[0]) * np.linalg.det(target) > 0
    print(f"right sign: {sign!s:5}  rank {rest.rank}, loss {rest.loss:.6f}, missed {rest.missed}")
    assert rest.is_minimum == sign
    assert math.isclose(rest.loss, 0.0 if sign else 0.7**2 / 2, rel_tol=1e-12, abs_tol=1e-20)

stuck = simulate(blocked if rest.missed.size else start, target, 20 / 0.7)
print(f"simulated loss at t = {stuck.t[-1]:.1f}: {stuck.loss[-1]:.6f}")
assert abs(stuck.loss[-1] - 0.7**2 / 2) < 1e-6

# %% [markdown]
# ## Imbalance: between rich and lazy
# λ = W₂ᵀW₂ − W₁W₁ᵀ moves the network from saddles (λ = 0) to exponential relaxation at rate
# sqrt(4s² + λ²) per mode.

# %%
figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
for n, balance in enumerate((0.0, 1.0, -1.0, 8.0)):
    weights = exact_linear.balanced_start(
        (4, 4, 4), balance=balance, scale=1e-3, key=jax.random.key(2)
    )
    flow = simulate(weights, target, 12.0)
    exact = exact_linear.two_layer(*weights, target, flow.t)
    loss = 0.5 * np.sum((target - exact) ** 2, axis=(1, 2))
    assert np.max(np.abs(flow.loss - loss)) < 1e-8 * loss[0]
    label = rf"$\lambda = {balance:g}$"
    ax.semilogx(flow.t[1:], flow.loss[1:], color=COLOURS[n], lw=2.2, alpha=0.55)
    ax.semilogx(flow.t[1:], loss[1:], **EXACT)
    at = np.searchsorted(flow.t, np.geomspace(0.02, 10, 7) * 1.3**n).clip(max=len(loss) - 1)
    ax.plot(flow.t[at], loss[at], "osD^"[n], mec=COLOURS[n], mfc="white", ms=4.5, label=label)
ax.plot([], [], **EXACT, label="exact")
ax.set(xlabel="flow time $t$", ylabel="loss", xlim=(0.01, 12))
ax.legend(fontsize="x-small")
plt.show()
