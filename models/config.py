"""The configuration of a network: a frozen value that is saved in one file with the weights."""

import json
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.card import TensorSpec
from models.cells import CELLS, Bidirectional, Cell
from models.stack import Stack

INPUT_NAME = "x"
OUTPUT_NAME = "y"


MAX_WIDTH = 2**20
"""Largest number of features of a layer; one weight matrix between two layers of this width takes 4 TiB."""
MAX_LAYERS = 1024


def first_error(exc: ValidationError, prefix: str = "") -> str:
    """Return the first validation error in one line, as `field: message`."""
    first = exc.errors(include_url=False)[0]
    field = ".".join(str(part) for part in (prefix, *first["loc"]) if part != "")
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    return f"{field}: {message}" if field else message


def least_weights(text: str) -> int:
    """Return how many weights a network of this configuration, JSON, has at least, without building it.

    1 if the configuration is not valid, which `NetworkConfig` tells.
    """
    try:
        fields = json.loads(text)
        options = CELLS[fields["cell"]].Options.model_validate(fields.get("cell_options", {}))
        layers = fields.get("num_layers", 1)
        return layers * options.least_weights if 1 <= layers <= MAX_LAYERS else 1
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return 1


class Scaler(BaseModel):
    """Hold the mean and standard deviation of each feature, in raw units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"a scaler has {len(self.mean)} means and {len(self.std)} standard deviations")
        if any(value <= 0 for value in self.std):
            raise ValueError("a scaler's standard deviations must all be greater than zero")
        return self


class NetworkConfig(BaseModel):
    """Describe a network: embedding or scaler → stack of cells → linear head → outputs in raw units.

    With a `vocabulary` the network reads token ids, embedded in `input_size` dimensions; without one, `input_size`
    features in raw units. Each cell checks its own sizes and `cell_options`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: str
    input_size: int = Field(ge=1, le=MAX_WIDTH)
    hidden_size: int = Field(ge=1, le=MAX_WIDTH)
    output_size: int = Field(ge=1, le=MAX_WIDTH)
    num_layers: int = Field(default=1, ge=1, le=MAX_LAYERS)
    cell_options: dict[str, Any] = Field(default_factory=dict)
    residual: bool = Field(default=False, description="Whether each layer's input is added to its output.")
    bidirectional: bool = Field(
        default=False,
        description="Whether a second cell in each layer runs backwards; then the network reads whole sequences only.",
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
    def _check_consistency(self) -> Self:
        if self.cell not in CELLS:
            raise ValueError(f"no cell is called {self.cell!r}; the cells are {', '.join(sorted(CELLS))}")
        with torch.device("meta"):  # checks the cell's sizes and options without allocating weights
            self.make_stack()
        if self.vocabulary is not None and self.input_scaler is not None:
            raise ValueError("token ids cannot be scaled: give either a vocabulary or an input scaler")
        scalers = (("input", self.input_scaler, self.input_size), ("output", self.output_scaler, self.output_size))
        for side, scaler, size in scalers:
            if scaler is not None and len(scaler.mean) != size:
                raise ValueError(f"the {side} scaler is for {len(scaler.mean)} features, the network has {size}")
        feedback_size = self.vocabulary or self.input_size
        if self.feedback and self.bidirectional:
            raise ValueError("a bidirectional network reads whole sequences: its output cannot be fed back")
        if self.feedback and self.output_size != feedback_size:
            raise ValueError(
                f"feedback needs an output_size equal to the input's size: {self.output_size} is not {feedback_size}"
            )
        # these raise an error when the number of feature names or units does not match the sizes
        self.input_spec()
        self.output_spec()
        return self

    def make_stack(self) -> Stack:
        """Return the stack of cells, with newly initialised weights."""
        cells: list[Cell] = []
        width = self.input_size
        for _ in range(self.num_layers):
            cells.append(self._make_layer(width))
            width = cells[-1].output_size
        return Stack(cells, self.residual)

    def _make_layer(self, width: int) -> Cell:
        forward = self._make_cell(width)
        return Bidirectional(forward, self._make_cell(width)) if self.bidirectional else forward

    def _make_cell(self, width: int) -> Cell:
        """Return one cell that reads `width` features.

        Raises:
            ValueError: The cell cannot be built with these sizes and options; the message says why.
        """
        cell = CELLS[self.cell]
        try:
            cell.Options.model_validate(self.cell_options)  # refuses input_size and hidden_size among the options
            return cell(width, self.hidden_size, **self.cell_options)
        except ValidationError as exc:
            raise ValueError(first_error(exc, "cell_options")) from exc
        except (TypeError, RuntimeError, OverflowError) as exc:  # torch on size overflow, or a user-defined cell
            raise ValueError(f"the cell {self.cell!r} cannot be built with these sizes and options") from exc

    def input_spec(self) -> TensorSpec:
        """Return the card's description of a step's input."""
        if self.vocabulary is not None:
            return TensorSpec(name=INPUT_NAME, dtype="int64", vocabulary=self.vocabulary)
        return TensorSpec(name=INPUT_NAME, shape=(self.input_size,), features=self.features, units=self.units)

    def output_spec(self) -> TensorSpec:
        """Return the card's description of a step's output."""
        features, units = self.output_features, self.output_units
        return TensorSpec(name=OUTPUT_NAME, shape=(self.output_size,), features=features, units=units)
