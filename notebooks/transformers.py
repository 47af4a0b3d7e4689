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
# # A whole transformer: what its heads learn, and what adapters add
#
# The theorems on gradual rank increase are about diagonal weights and small initialisation
# (Boix-Adserà et al. 2023). Here nothing is simplified: a vision transformer with norms, residuals
# and perceptrons on handwritten digits, all weights trained by the exact gradient flow.
# `gflow reproduce gradual-rank-vit` does this over seeds, with SGD and Adam beside it.

# %%
import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import gflow
from gflow import observables

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS, LINES = gflow.plot.COLOURS, ("-", "--", ":")

# %% [markdown]
# ## Attention from three scales
# One layer of two heads; only the scale of its four weights differs. `value_output(path, since=)`
# is what each head has learned, Δ(W_V W_O), whatever the module holds; the spectrum of it is
# recorded along the flow.

# %%
task = gflow.tasks.digits(examples=40)
model = gflow.models.VisionTransformer(
    (8, 8), patch=4, classes=10, d=8, heads=2, head_width=4, hidden=8, layers=1,
    key=jax.random.key(0),
)
PATH, LEVEL = "layers.0.attention", 0.2


def weights(model):
    attention = model.layers[0].attention
    return [attention.query, attention.key, attention.value, attention.output]


def flow(scale):
    start = eqx.tree_at(weights, model, [scale * w for w in weights(model)])
    learned = observables.value_output(PATH, since=start)
    return gflow.simulate(
        start, task.objective, t1=200.0, rtol=1e-4, error_bars=False,
        observables={"spectrum": observables.spectrum(learned)},
        save=gflow.save.observables(), stop=gflow.stop.loss_below(LEVEL),
    )


runs = {scale: flow(scale) for scale in (1.0, 0.1, 0.01)}
for scale, run in runs.items():
    accuracy = float(task.held_out.accuracy(run.final))
    print(f"scale {scale:<5g} {run.status}: t = {run.t[-1]:.1f}, held out {accuracy:.2f}")


# %%
def stable_rank(spectrum):
    return np.sum(spectrum**2, axis=-1) / np.max(spectrum, axis=-1) ** 2


figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.7), layout="constrained")
for k, (scale, run) in enumerate(runs.items()):
    style = {"color": COLOURS[k], "ls": LINES[k], "label": f"scale {scale:g}"}
    spectrum = np.asarray(run.observables["spectrum"])[1:]
    left.plot(run.t, run.loss, **style)
    right.plot(run.loss[1:], stable_rank(spectrum).mean(axis=1), **style)
left.set(xlabel="flow time $t$", ylabel="training loss [nats]")
right.set(xlabel="training loss [nats]", ylabel=r"stable rank of $\Delta(W_V W_O)$")
right.set_xscale("log")
right.invert_xaxis()
right.set_xticks([2.0, 1.0, 0.5, LEVEL], ["2", "1", "0.5", f"{LEVEL:g}"])
right.minorticks_off()
left.legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## What gradient flow conserves here
# Queries and keys of a head enter the loss through W_QᵀW_K alone, so that W_QW_Qᵀ − W_KW_Kᵀ stays
# as it is, whatever the data and the rest of the network; Adam moves it.

# %%
balance = {"balance": observables.balance(observables.key_query(PATH))}
kept = gflow.simulate(
    model, task.objective, t1=2.0, rtol=1e-4, error_bars=False, observables=balance
)
moved = gflow.descend(
    model, task.objective, optimizer=optax.adam(1e-2), steps=200, observables=balance
)
for name, run in (("flow", kept), ("Adam", moved)):
    found = np.asarray(run.observables["balance"])
    print(f"{name}: the balance has moved by {np.max(np.abs(found - found[0])):.1e}")

# %% [markdown]
# ## Adapters
# The network is trained, then adapted to digits turned by 30°: `Tuned` trains changes W + ΔW of
# the weights that are named, here low-rank adapters from α = 10⁻¹⁰⁰. Each singular value of an
# adapter waits at α until its turn comes: the rank of the change is a staircase.

# %%
trained = gflow.descend(
    model, task.objective, optimizer=optax.adam(1e-2), steps=500, save_every=500
).final
turned = task.rotated(30.0)
NAMES = [f"{PATH}.{name}" for name in ("value", "output")]
shapes = {name: w.shape for name, w in zip(NAMES, weights(trained)[2:], strict=True)}
adapters = {
    name: gflow.Factored.small(shapes[name], 2, log_alpha=-100 * np.log(10.0), key=key)
    for name, key in zip(NAMES, jax.random.split(jax.random.key(1), len(NAMES)), strict=True)
}
tuned = gflow.models.Tuned(trained, adapters)
print(f"turned digits: loss {float(turned.objective(trained)):.2f} before")
run = gflow.simulate(tuned, turned.objective, t1=450.0, rtol=1e-6, error_bars=False)
print(run.status, f"loss {run.loss[-1]:.2f} after")

# %%
figure, ax = plt.subplots(figsize=(3.5, 2.7), layout="constrained")
for k, name in enumerate(NAMES):
    logs = np.asarray(run.observables[f"changes.{name}.log_singular"])
    logs = logs.reshape(len(run.t), -1) / np.log(10.0)
    for line in logs.T:
        ax.plot(run.tau, line, color=COLOURS[k], ls=LINES[k], lw=1.2)
    ax.plot([], [], color=COLOURS[k], ls=LINES[k], label=name.rsplit(".", 1)[1])
ax.set(xlabel=r"$\tau = t/\log(1/\alpha)$", ylabel=r"$\log_{10}$ singular values")
ax.legend(fontsize="x-small")
plt.show()
