"""The comparisons that a served graph is put through: which sequences, in which chunks and batches.

They follow from the reference. A graph whose reference answers several sequences at once and from any state is compared
on batches, ragged ones and given states. A graph whose reference answers one sequence at a time is compared on single
sequences, and on batches ("with strangers") of which each row must be what it is alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export.reference import BatchReference, ExactReference, Reference
from models.card import ModelCard

LENGTHS = (1, 2, 7, 50)
BATCHES = (1, 3, 33)
SINGLE_LENGTHS = (1, 2, 7, 24)
LONG = 200
"""Steps of sequences that show what is carried over more steps than the others have, as by a delay line."""
INT8_LENGTHS = (*SINGLE_LENGTHS, LONG)
"""What int8 loses at each step adds up in the state."""
STRANGERS = (2, 5, 33)
STRANGERS_LENGTH = 6

ChunkLength = Callable[[np.random.Generator], int]
"""Returns the number of steps of the next chunk."""


def whole_sequence(random: np.random.Generator) -> int:
    """Take all steps in one chunk."""
    return max(*LENGTHS, *INT8_LENGTHS, LONG)


def one_step(random: np.random.Generator) -> int:
    """Take one step a chunk."""
    return 1


def up_to(steps: int) -> ChunkLength:
    """Take between one and so many steps a chunk."""
    return lambda random: int(random.integers(1, steps + 1))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One way to run sequences through the served graph, for each of `lengths` × `batches`.

    `chunk_length` cuts them into chunks; `shuffled` rows change their position in the batch from chunk to chunk. With
    `ragged`, sequences end within the chunk and are padded with noise. With `from_states`, they start from random
    rows, as a restored session does. `long` is one more length, for networks whose float32 run says something after so
    many steps: in a chaotic one no two runs agree for long.
    """

    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    chunk_length: ChunkLength
    shuffled: bool = False
    ragged: bool = False
    from_states: bool = False
    long: int = 0


def comparisons_of(reference: Reference, card: ModelCard) -> dict[str, Comparison]:
    """Return the comparisons that fit a model and its reference, by name."""
    if isinstance(reference, BatchReference):
        return _batch_comparisons(card)
    is_int8 = card.config.get("precision") == "int8" or "quantised" in card.config
    lengths = INT8_LENGTHS if is_int8 else SINGLE_LENGTHS
    long = LONG if isinstance(reference, ExactReference) and "precision" not in card.config else 0
    found = {
        "one_step_at_a_time": Comparison(lengths, (1,), one_step),
        "whole_sequence": Comparison(lengths, (1,), whole_sequence),
        "random_chunks": Comparison(lengths, (1,), up_to(8), long=long),
    }
    if card.max_batch > 1:
        batches = tuple(sorted({min(batch, card.max_batch) for batch in STRANGERS}))
        found["steps_with_strangers"] = Comparison((STRANGERS_LENGTH,), batches, one_step, shuffled=True)
        found["chunks_with_strangers"] = Comparison((STRANGERS_LENGTH,), batches, up_to(3), shuffled=True)
    return found


def _batch_comparisons(card: ModelCard) -> dict[str, Comparison]:
    found = {"whole_sequence": Comparison(LENGTHS, BATCHES, whole_sequence)}
    if card.streams:
        found["one_step_at_a_time"] = Comparison(LENGTHS, BATCHES, one_step)
        found["random_chunks"] = Comparison(LENGTHS, BATCHES, up_to(11))
    if card.ragged:
        found["ragged_batch"] = Comparison(LENGTHS, BATCHES, whole_sequence, ragged=True)
    # in chunks where they may be cut, so that what a given state holds is carried as well as read
    given = up_to(11) if card.streams else whole_sequence
    found["initial_state"] = Comparison(LENGTHS, BATCHES, given, from_states=True)
    return found
