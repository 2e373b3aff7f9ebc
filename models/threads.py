"""A context manager that sets the number of threads torch uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block, and restore the former number afterwards.

    One thread is best for small recurrent networks: on a busy machine several threads wait for each other far longer
    than a step takes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
