from collections.abc import Iterator

import pytest

from models.threads import torch_threads


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread: on a busy machine several wait for each other far longer than these tests take."""
    with torch_threads(1):
        yield
