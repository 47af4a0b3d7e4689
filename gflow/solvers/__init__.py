"""Diffrax solvers for gradient flow that Diffrax does not have."""

from .rodas5p import Rodas5P as Rodas5P
