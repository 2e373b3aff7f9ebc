"""A training loop: Adam on whole sequences, with teacher forcing, keeping the weights of the best epoch."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from models.network import Network
from models.threads import torch_threads


@dataclass(frozen=True, slots=True)
class Sequences:
    """Hold input sequences and the target of each step.

    inputs (batch, time, features) or token ids (batch, time); targets (batch, time, outputs) or class ids
    (batch, time). The first `burn_in` steps build up the state and are left out of the loss: to validate on the end of
    a series, give the whole series and a burn-in that covers its beginning.

    Raises:
        ValueError: Inputs and targets differ in batch or time, or the burn-in leaves no step.
    """

    inputs: Tensor
    targets: Tensor
    burn_in: int = 0

    def __post_init__(self) -> None:
        if self.inputs.shape[:2] != self.targets.shape[:2]:
            raise ValueError(
                f"inputs {tuple(self.inputs.shape)} and targets {tuple(self.targets.shape)} differ in batch or time"
            )
        if not 0 <= self.burn_in < self.inputs.shape[1]:
            raise ValueError(f"a burn-in of {self.burn_in} leaves none of the {self.inputs.shape[1]} steps")


class FitConfig(BaseModel):
    """Set the options of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=300, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    loss: Literal["mse", "cross_entropy"] = "mse"
    clip_norm: float = Field(default=1.0, gt=0)
    batch_size: int | None = Field(default=None, ge=1, description="Sequences in one update; default all.")
    seed: int = 0
    threads: int = Field(default=1, ge=1, description="Threads of torch; more than one helps only large networks.")
    progress: bool = True


@dataclass(slots=True)
class History:
    """Record the loss of each epoch; `best_epoch` counts from 0 and is the one whose weights were kept."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0


def fit(network: Network, train: Sequences, config: FitConfig, validation: Sequences | None = None) -> History:
    """Train the network in place, and leave it in eval mode with the weights of the best epoch, whatever ends it.

    The best epoch has the lowest loss on `validation`, or on `train` when there is none. The seed determines the order
    of the batches; the initial weights are those the network was built with. With an output scaler, errors are divided
    by its standard deviations before the mean square is taken.

    Raises:
        FloatingPointError: The loss is no longer finite. As on Ctrl-C, the network has the best weights so far.
    """
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    history = History()
    best_loss = float("inf")
    best_weights = copy.deepcopy(network.state_dict())
    evaluated = train if validation is None else validation
    try:
        with torch_threads(config.threads), _progress_bar(config) as bar:
            task = bar.add_task("training", total=config.epochs, loss=best_loss)
            for epoch in range(config.epochs):
                history.train.append(_train_epoch(network, train, config, optimiser, generator))
                # the epoch's training loss belongs to weights that have changed since: evaluate the present ones
                loss = evaluate(network, evaluated, config.loss)
                if not loss < float("inf"):
                    raise FloatingPointError(f"the loss is {loss} after epoch {epoch}: lower the learning rate")
                if validation is not None:
                    history.validation.append(loss)
                if loss < best_loss:
                    best_loss, history.best_epoch = loss, epoch
                    best_weights = copy.deepcopy(network.state_dict())
                bar.update(task, advance=1, loss=best_loss)
    finally:  # also on Ctrl-C
        network.load_state_dict(best_weights)
        network.eval()
    return history


def evaluate(network: Network, sequences: Sequences, loss: Literal["mse", "cross_entropy"]) -> float:
    """Put the network in eval mode, and return its loss over whole sequences without the burn-in."""
    network.eval()
    with torch.no_grad():
        return float(_loss(network, sequences, loss))


def _train_epoch(
    network: Network, train: Sequences, config: FitConfig, optimiser: torch.optim.Optimizer, generator: torch.Generator
) -> float:
    network.train()
    total = 0.0
    for rows in _batches(len(train.inputs), config.batch_size, generator):
        optimiser.zero_grad()
        loss = _loss(network, Sequences(train.inputs[rows], train.targets[rows], train.burn_in), config.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        optimiser.step()
        total += float(loss.detach()) * len(rows)
    return total / len(train.inputs)


def _batches(count: int, batch_size: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(count, generator=generator)
    yield from torch.split(order, batch_size or count)


def _loss(network: Network, sequences: Sequences, name: Literal["mse", "cross_entropy"]) -> Tensor:
    outputs: Tensor = network(sequences.inputs)[0]
    y, target = outputs[:, sequences.burn_in :], sequences.targets[:, sequences.burn_in :]
    if name == "cross_entropy":
        return nn.functional.cross_entropy(y.flatten(0, 1), target.flatten())
    error = y - target
    if network.config.output_scaler is not None:
        error = error / network.output_std
    return error.square().mean()


def _progress_bar(config: FitConfig) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("best loss {task.fields[loss]:.5f}"), disable=not config.progress)
