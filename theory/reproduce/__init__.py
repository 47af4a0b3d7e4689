"""Experiments of the papers, each a short script, run by the `gflow` command line."""

from .registry import EXPERIMENTS as EXPERIMENTS, Experiment as Experiment
from .report import Report as Report
