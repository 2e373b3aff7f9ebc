"""Each cell once more, as a float64 numpy loop written from the paper's equations, sharing no code with the cells."""

from tests.models.oracles import gated, plain, structured
from tests.models.oracles.parts import Reference

ORACLES: dict[str, Reference] = plain.ORACLES | gated.ORACLES | structured.ORACLES
