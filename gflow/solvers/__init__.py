"""Diffrax solvers for gradient flow: what Diffrax does not have, and two of its own made lean."""

from ._explicit import Dopri8 as Dopri8, Tsit5 as Tsit5
from ._rkc2 import RKC2 as RKC2
from ._rock4 import ROCK4 as ROCK4
from ._rodas5p import Rodas5P as Rodas5P
from ._switching import Switching as Switching
