"""Ranks, balance, gap and loss of transformers by λ; one step of plain gradient descent.

The transformers are trained by AdamW and by Adam with L2, which obey no exact law: what is judged
is that the rank falls. What is exact is one step of gradient descent.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

import gflow
from gflow import models, tasks
from gflow.internal import trained_leaves
from theory import weight_decay as theory

from ... import Report
from ..settings import Settings
from .heads import PRODUCTS, collected, interval, per_head
from .problem import LENGTH, RATE, Members, adam, pairs, stack, trained_on_text


class Recall(NamedTuple):
    """By method its decays and its members; by quantity (mean and interval, member)."""

    decays: dict[str, np.ndarray]
    members: dict[str, slice]
    table: dict[str, np.ndarray]
    #: Σ learning rate.
    time: float


class Text(NamedTuple):
    """λ of the members of either part; by quantity (mean and interval, member)."""

    decays: np.ndarray
    members: dict[str, np.ndarray]
    table: dict[str, np.ndarray]


def one_step(report: Report) -> None:
    """Plain gradient descent: G of every head after a step, from its gradients, to rounding."""
    eta, decay = 0.1, 0.5
    task = tasks.associative_recall(key=jax.random.key(7), examples=32)
    start = models.Transformer(task.vocabulary, task.length, key=jax.random.key(8))
    rates = {name: decay for name in trained_leaves(start) if "attention" in name}
    end = gflow.descend(start, task.objective, learning_rate=eta, steps=1, decay=rates).final
    gradient = eqx.filter_jit(eqx.filter_grad(task.objective))(start)
    for name, label in PRODUCTS.items():
        error = 0.0
        layers = (pairs(model, name) for model in (start, gradient, end))
        for before, slope, after in zip(*layers, strict=True):
            a, b, ga, gb = (np.asarray(x) for x in before + slope)
            predicted = theory.descent_imbalance(a, b, ga, gb, eta, decay)
            left, right = (np.asarray(x) for x in after)
            found = left.mT @ left - right.mT @ right
            error = max(error, float(np.max(np.abs(found - predicted)) / np.max(np.abs(found))))
        report.add(
            f"one-step.{name}.balance",
            0.0,
            error,
            1e-12,
            text=f"one step of gradient descent: largest deviation of G of {label} from "
            "its exact law, all heads",
        )


def recall(report: Report, settings: Settings) -> Recall:
    """AdamW and Adam with L2 beside each other: rank, balance, gap, accuracy against λ."""
    seeds, steps = settings.recall_seeds, settings.recall_steps
    decays = {
        "AdamW": np.array(settings.adamw_decays),
        "Adam + L2": np.array(settings.l2_decays),
    }
    first, last = map(len, decays.values())
    members = {"AdamW": slice(0, first), "Adam + L2": slice(first, first + last)}
    coupled = np.concatenate([np.zeros(first), decays["Adam + L2"]])
    decoupled = np.concatenate([decays["AdamW"], np.zeros(last)])
    rule = adam({"attention": coupled}, {"attention": decoupled})
    runs = []
    for seed in range(seeds):
        for_train, for_test, for_batch = jax.random.split(jax.random.key(seed), 3)
        train = tasks.associative_recall(key=for_train, examples=settings.recall_examples)
        test = tasks.associative_recall(key=for_test, examples=512)
        start = stack(first + last, seed, vocabulary=train.vocabulary, length=train.length)
        end = gflow.descend(
            start,
            Members(train.inputs, train.targets),
            optimizer=rule,
            steps=steps,
            batch=64,
            key=for_batch,
            save_every=steps,
            allow_float32=True,
        ).final
        runs.append(per_head(end, start))
        runs[-1]["accuracy"] = np.array(eqx.filter_vmap(test.objective.accuracy)(end), float)
    table = collected(runs)
    shown = ["kq rank", "vo rank", "kq imbalance", "kq gap", "vo gap", "accuracy"]
    report.say(
        f"Associative recall, {seeds} seeds, {steps} steps; means over heads of {', '.join(shown)}"
        " (imbalance and gap relative to their start):",
        *(
            f"  {name:9} λ = {decay:6g}: "
            + " ".join(f"{table[q][0][members[name]][i]:8.4f}" for q in shown)
            for name in members
            for i, decay in enumerate(decays[name])
        ),
    )
    for name, inside in members.items():
        for product, label in PRODUCTS.items():
            mean = table[f"{product} rank"][0][inside]
            key = f"recall.{name.replace(' + ', '-')}.lambda{decays[name][-1]:g}.{product}"
            _rank_falls(report, key, f"{label} against λ = 0", mean[-1] - mean[0])
    return Recall(decays, members, table, RATE * steps)


def text(report: Report, settings: Settings) -> Text:
    """Characters of the Python reference, AdamW: rank and validation loss against λ."""
    source = tasks.python_reference()
    seeds, sweep = settings.text_seeds, np.array(settings.text_decays)
    none = np.zeros(len(sweep))
    rates = {
        "attention": np.concatenate([[0.0], sweep, none]),
        "perceptron": np.concatenate([[0.0], none, sweep]),
    }
    many = 1 + 2 * len(sweep)
    members = {
        "attention": np.arange(1 + len(sweep)),
        "MLP": np.append(0, np.arange(1 + len(sweep), many)),
    }
    report.settings |= {"learning_rate": RATE, "text": "pydoc_data.topics"}
    rule, runs = adam({}, rates), []
    for seed in range(seeds):
        start = stack(many, seed, vocabulary=source.vocabulary, length=LENGTH)
        end, loss = trained_on_text(start, rule, source, seed, settings.text_steps)
        runs.append(per_head(end, start) | {"loss": loss})
    table = collected(runs)
    report.say(
        f"Text: {len(source.training)} characters of the Python language reference, AdamW, "
        f"{seeds} seeds; ranks of {PRODUCTS['kq']}, {PRODUCTS['vo']} (of 16), held-out loss (nats)",
        *(
            f"  λ = {rates[part][i]:4g} on the {name:9}: {table['kq rank'][0][i]:5.2f} "
            f"{table['vo rank'][0][i]:5.2f}   {table['loss'][0][i]:.4f} "
            f"± {table['loss'][2][i] - table['loss'][0][i]:.4f}"
            for name, part in (("attention", "attention"), ("MLP", "perceptron"))
            for i in members[name]
        ),
    )
    last = np.array([run["loss"][members["attention"][-1]] - run["loss"][-1] for run in runs])
    report.say(
        f"Held-out loss at λ = {sweep[-1]:g} on attention less that on the MLP, seed by seed: "
        "mean {:.4f}, from {:.4f} to {:.4f} (95 %)".format(*interval(last))
    )
    for name, label in PRODUCTS.items():
        mean = table[f"{name} rank"][0]
        change = mean[members["attention"][-1]] - mean[0]
        key = f"text.lambda{sweep[-1]:g}.{name}"
        _rank_falls(report, key, f"λ on attention, {label}", change)
    return Text(np.append(0.0, sweep), members, table)


def _rank_falls(report: Report, key: str, label: str, change: float) -> None:
    """A prediction of direction only: more decay, lower rank."""
    report.add(
        f"{key}.rank-falls",
        -1.0,
        float(np.sign(change)),
        0.0,
        text=f"{label}: sign of the change of the mean rank",
    )
