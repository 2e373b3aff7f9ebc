"""What a network is made of, as a frozen value that travels with its weights."""

from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.card import TensorSpec
from models.cells import CELLS, Bidirectional, Cell
from models.stack import Stack

INPUT_NAME = "x"
OUTPUT_NAME = "y"


class Scaler(BaseModel):
    """Hold the mean and standard deviation of each feature, in raw units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"a scaler has {len(self.mean)} means and {len(self.std)} standard deviations")
        if any(value <= 0 for value in self.std):
            raise ValueError("a scaler's standard deviations must all be above zero")
        return self


class NetworkConfig(BaseModel):
    """Describe a network: embedding or scaler → stack of cells → linear head → raw units.

    With a `vocabulary` the network reads token ids, embedded in `input_size` dimensions; without one, `input_size`
    features in raw units. Sizes and `cell_options` are checked by the cell itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: str
    input_size: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    output_size: int = Field(ge=1)
    num_layers: int = Field(default=1, ge=1)
    cell_options: dict[str, Any] = Field(default_factory=dict)
    residual: bool = Field(default=False, description="Whether each layer's input is added to its output.")
    bidirectional: bool = Field(
        default=False, description="Whether a second cell reads each sequence from its end: whole sequences only."
    )
    vocabulary: int | None = Field(default=None, ge=1)
    input_scaler: Scaler | None = None
    output_scaler: Scaler | None = None
    features: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    output_features: tuple[str, ...] = ()
    output_units: tuple[str, ...] = ()
    feedback: bool = Field(default=False, description="Whether an output can be the next step's input (roll-outs).")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.cell not in CELLS:
            raise ValueError(f"no cell is called {self.cell!r}; there are {', '.join(sorted(CELLS))}")
        with torch.device("meta"):  # sizes and options that make no cell are refused here, and no weights are made
            self.make_stack()
        if self.vocabulary is not None and self.input_scaler is not None:
            raise ValueError("token ids cannot be scaled: choose a vocabulary or an input scaler")
        scalers = (("input", self.input_scaler, self.input_size), ("output", self.output_scaler, self.output_size))
        for side, scaler, size in scalers:
            if scaler is not None and len(scaler.mean) != size:
                raise ValueError(f"the {side} scaler is for {len(scaler.mean)} features, the network has {size}")
        fed_back = self.vocabulary or self.input_size
        if self.feedback and self.bidirectional:
            raise ValueError("a bidirectional network reads whole sequences: no output can be fed back to it")
        if self.feedback and self.output_size != fed_back:
            raise ValueError(f"feedback needs outputs as wide as the input: {self.output_size} are not {fed_back}")
        # built here so that names which do not fit are refused with the configuration
        self.input_spec()
        self.output_spec()
        return self

    def make_stack(self) -> Stack:
        """Return the stack of cells, with new weights."""
        cells: list[Cell] = []
        width = self.input_size
        for _ in range(self.num_layers):
            cells.append(self._make_layer(width))
            width = cells[-1].output_size
        return Stack(cells, self.residual)

    def _make_layer(self, width: int) -> Cell:
        cell = CELLS[self.cell]
        onward = cell(width, self.hidden_size, **self.cell_options)
        if not self.bidirectional:
            return onward
        return Bidirectional(onward, cell(width, self.hidden_size, **self.cell_options))

    def input_spec(self) -> TensorSpec:
        """Return how the card describes the input of a step."""
        if self.vocabulary is not None:
            return TensorSpec(name=INPUT_NAME, dtype="int64", vocabulary=self.vocabulary)
        return TensorSpec(name=INPUT_NAME, shape=(self.input_size,), features=self.features, units=self.units)

    def output_spec(self) -> TensorSpec:
        """Return how the card describes the output of a step."""
        features, units = self.output_features, self.output_units
        return TensorSpec(name=OUTPUT_NAME, shape=(self.output_size,), features=features, units=units)
