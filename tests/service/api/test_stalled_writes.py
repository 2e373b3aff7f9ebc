"""Which clients do not read is decided by the bytes that wait for them."""

from service.api.stalled_writes import PATIENCE, StalledWrites


class Buffer:
    def __init__(self, size: int) -> None:
        self.size = size

    def get_write_buffer_size(self) -> int:
        return self.size


def test_only_a_buffer_that_does_not_shrink_is_stalled() -> None:
    """A buffer that shrinks, is empty or is new is not stalled; one that stays or grows is, after PATIENCE."""
    empty, shrinking, same, growing = buffers = [Buffer(0), Buffer(100), Buffer(100), Buffer(100)]
    writes = StalledWrites()
    for second in range(3):
        now = second * PATIENCE / 2
        found = writes.stalled(buffers, now)
        assert found == ([] if second < 2 else [same, growing])
        shrinking.size -= 10
        growing.size += 10
    assert writes.stalled([empty, Buffer(100)], 99.0) == []
    assert writes.stalled([same], 99.0) == []
