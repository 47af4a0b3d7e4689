"""Gradual rank increase: the saddle path of any model with small weights, with times."""

from ._predict import (
    predict as predict,
    predict_batch as predict_batch,
)
