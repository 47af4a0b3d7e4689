"""Bad inputs as a user gives them, without the type checks of the suite: run by test_arguments.

    python tests/support/bad_inputs.py

prints a list of what every case raised, in JSON.
"""

import json

import jax
import jax.numpy as jnp

import gflow
import theory

jax.config.update("jax_enable_x64", True)

KEY = jax.random.key(0)


def model(**kwargs):
    scale = {} if {"alpha", "log10_alpha"} & set(kwargs) else {"log_alpha": -50.0}
    return {"w": gflow.Hadamard.small(2, **{**scale, "key": KEY} | kwargs)}


def objective(tree):
    return jnp.sum((tree["w"].value - 1.0) ** 2)


def predict(**kwargs):
    return theory.gradual_rank.predict(model(), objective, **kwargs)


def descend(**kwargs):
    return gflow.descend(model(), objective, learning_rate=0.1, **kwargs)


def batch(**kwargs):
    many = jax.vmap(lambda key: model(key=key))(jax.random.split(KEY, 3))
    return gflow.simulate_batch(many, objective, **kwargs)


# what is called with a finished run, and what the sentence must hold
CASES = [
    (lambda _: model(log_alpha="x"), "log_alpha = 'x' is no array of numbers"),
    (lambda _: model(alpha="1e-5"), "alpha = '1e-5' is no array of numbers: the scale α"),
    (lambda _: model(log10_alpha={}), "log10_alpha = {} is no array of numbers"),
    (lambda _: predict(log10_alpha=[-3.0, -4.0]), r"has shape \(2,\).*simulate_batch"),
    (lambda _: theory.gradual_rank.predict(model(), objective).at("x"), "'x' is no number"),
    (lambda _: model(key=0), r"key = 0 is no random key.*jax\.random\.key"),
    (lambda _: gflow.Hadamard.small(-2, log_alpha=-5.0, key=KEY), "shape = -2 is no shape"),
    (lambda _: gflow.Hadamard.small("ab", log_alpha=-5.0, key=KEY), "shape = 'ab' is no shape"),
    (lambda _: gflow.Factored.small(3, 1, log_alpha=-5.0, key=KEY), "that of a matrix"),
    (lambda _: gflow.Factored.small((3, 3), 1.5, log_alpha=-5.0, key=KEY), "rank = 1.5"),
    (lambda _: gflow.rescale(model(), "x"), "log_alpha = 'x' is no array of numbers"),
    (
        lambda _: gflow.objectives.InContextRegression([0.4], 3, reduction="sum"),
        'choose "half_mean" or "mean"',
    ),
    (lambda run: run.model("a"), "at = 'a' is no number: a time τ"),
    (lambda run: run.model(t=[1.0, 2.0]), r"t = .* has shape \(2,\)"),
    (lambda run: run.record_at("a"), "time = 'a' is no array of numbers"),
    (lambda run: run.save(3), "path = 3 is no name of a file"),
    (lambda _: gflow.Trajectory.load(3), "path = 3 is no name of a file"),
    (lambda _: gflow.cite("2306.07042"), "'2306.07042' is no result to cite"),
    (lambda _: gflow.align_stages(None), "align_stages was given None"),
    (lambda _: gflow.align_stages(["a"]), "'a' has no stages"),
    (lambda _: gflow.align_stages([["a"]]), "a stage is 'a'.*a MeasuredStage is needed"),
    (lambda run: theory.compare(run, "x"), "prediction is 'x'.*a Prediction is needed"),
    (lambda run: theory.compare(run, run), "prediction is .*a Prediction is needed"),
    (lambda _: predict(rtol="a"), "rtol = 'a' is no number"),
    (lambda _: predict(max_stages="a"), "max_stages = 'a'.*integer of at least 1"),
    (lambda _: descend(steps="3"), "steps = '3'.*integer of at least 1"),
    (lambda _: descend(steps=3, save_every=0), "save_every = 0.*integer of at least 1"),
    (lambda _: batch(t1="1"), "t1 = '1' is no array of numbers"),
    (lambda _: batch(tau1=[[1.0], 2]), "tau1 = .* is no array of numbers"),
    (lambda _: batch(tau1=1.0, log_alpha="1"), "log_alpha = '1' is no number"),
]


def raised(call, run) -> str:
    try:
        call(run)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    finished = gflow.simulate(model(), objective, tau1=1.0, error_bars=False)
    print(json.dumps([raised(call, finished) for call, _ in CASES]))
