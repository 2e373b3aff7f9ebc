"""A reference implementation of each cell: a float64 numpy loop after the paper, sharing no code with the cells."""

from tests.models.oracles import gated, plain, structured
from tests.models.oracles.common import Oracle

ORACLES: dict[str, Oracle] = plain.ORACLES | gated.ORACLES | structured.ORACLES
