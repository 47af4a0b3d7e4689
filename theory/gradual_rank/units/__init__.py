"""The limit algorithm of saddles of order three and more: dormant units race, one wins."""

from ._path import follow as follow
