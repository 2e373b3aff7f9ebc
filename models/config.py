"""What a network is made of, as a frozen value that travels with its weights."""

from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.card import TensorSpec
from models.cells import CELLS, Bidirectional, Cell
from models.stack import Stack

INPUT_NAME = "x"
OUTPUT_NAME = "y"


MOST = 2**20
"""The largest width: the weights between two layers of it are more than any memory holds."""
MOST_LAYERS = 1024


def first_reason(exc: ValidationError, within: str = "") -> str:
    """Return the first thing that is wrong, as one sentence behind its place."""
    first = exc.errors(include_url=False)[0]
    where = ".".join(str(part) for part in (within, *first["loc"]) if part != "")
    said = " ".join(first["msg"].removeprefix("Value error, ").split())
    return f"{where}: {said}" if where else said


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
    input_size: int = Field(ge=1, le=MOST)
    hidden_size: int = Field(ge=1, le=MOST)
    output_size: int = Field(ge=1, le=MOST)
    num_layers: int = Field(default=1, ge=1, le=MOST_LAYERS)
    cell_options: dict[str, Any] = Field(default_factory=dict)
    residual: bool = Field(default=False, description="Whether each layer's input is added to its output.")
    bidirectional: bool = Field(
        default=False, description="Whether a second cell reads each sequence from its end: whole sequences only."
    )
    vocabulary: int | None = Field(default=None, ge=1, le=2**31 - 1)
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
        onward = self._make_cell(width)
        return Bidirectional(onward, self._make_cell(width)) if self.bidirectional else onward

    def _make_cell(self, width: int) -> Cell:
        """Return one cell.

        Raises:
            ValueError: The sizes and options make none; the sentence says which and why.
        """
        cell = CELLS[self.cell]
        try:
            cell.Options.model_validate(self.cell_options)  # a size among them would reach the cell twice
            return cell(width, self.hidden_size, **self.cell_options)
        except ValidationError as exc:
            raise ValueError(first_reason(exc, "cell_options")) from exc
        except (TypeError, RuntimeError, OverflowError) as exc:  # of torch, where sizes overflow, or of a user's cell
            raise ValueError(f"no cell {self.cell!r} can be made of these sizes and options") from exc

    def input_spec(self) -> TensorSpec:
        """Return how the card describes the input of a step."""
        if self.vocabulary is not None:
            return TensorSpec(name=INPUT_NAME, dtype="int64", vocabulary=self.vocabulary)
        return TensorSpec(name=INPUT_NAME, shape=(self.input_size,), features=self.features, units=self.units)

    def output_spec(self) -> TensorSpec:
        """Return how the card describes the output of a step."""
        features, units = self.output_features, self.output_units
        return TensorSpec(name=OUTPUT_NAME, shape=(self.output_size,), features=features, units=units)
