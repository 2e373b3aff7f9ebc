"""How a stream handles frames that were sent ahead when their connection is lost."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cellstream_client import InvalidInput, SessionInfo
from cellstream_client.cursor import Cursor
from cellstream_client.window import Window

INFO = SessionInfo("r0-b-1", "m", 1, 0, 0, 8, 900.0, "memory", datetime(2026, 1, 1, tzinfo=UTC))


def sent(cursor: Cursor, *chunks: list[list[float]]) -> Window:
    window = Window(cursor)
    for chunk in chunks:
        window.add(chunk)
    while window.next_unsent() is not None:
        pass
    return window


def test_frames_are_numbered_consecutively() -> None:
    """Each frame starts at the step after the last one of the frame before, and is sent once on a socket."""
    window = Window(Cursor(replace(INFO, step=4, epoch=2)))
    window.add([[1.0], [2.0]])
    window.add([[3.0]])
    frames = [json.loads(window.next_unsent() or "") for _ in range(2)]
    assert [(frame["step"], frame["epoch"]) for frame in frames] == [(5, 2), (7, 2)]
    assert window.next_unsent() is None
    window.lost()
    assert json.loads(window.next_unsent() or "")["step"] == 5


def test_one_lost_answer_is_requested_again_without_a_rewind() -> None:
    """If only one unanswered request was taken, its answer is still stored, and nothing is rewound."""
    window = sent(Cursor(INFO), [[1.0]])
    assert not window.needs_check
    window = sent(Cursor(INFO), [[1.0]], [[2.0]])
    assert window.needs_check
    assert window.requests_to_rewind(replace(INFO, step=1)) == 0
    assert window.requests_to_rewind(replace(INFO, step=2)) == 2


def test_a_rewind_without_an_answer_is_recognised() -> None:
    """When the answer to the rewind is lost too, the next description shows the rewound session in its new epoch."""
    cursor = Cursor(INFO)
    window = sent(cursor, [[1.0]], [[2.0]])
    assert window.requests_to_rewind(replace(INFO, step=2)) == 2
    found = replace(INFO, step=0, epoch=1)
    assert window.requests_to_rewind(found) == 0
    window.resolved(found)
    window.connected()
    assert json.loads(window.next_unsent() or "") == {"inputs": [[1.0]], "step": 1, "epoch": 1}


def test_an_epoch_raised_by_another_client_is_not_adopted() -> None:
    """Frames keep their epoch when another client has rewound the session, so that the service refuses them."""
    window = sent(Cursor(INFO), [[1.0]], [[2.0]])
    found = replace(INFO, step=0, epoch=1)
    assert window.requests_to_rewind(found) == 0
    window.resolved(found)
    window.connected()
    assert json.loads(window.next_unsent() or "")["epoch"] == 0


def test_a_refused_frame_stays_the_oldest() -> None:
    """A refused frame is sent again and leaves the cursor unchanged; an answer advances the cursor."""
    cursor = Cursor(INFO)
    window = sent(cursor, [[1.0]])
    with pytest.raises(InvalidInput):
        window.read('{"code": "invalid_input", "message": "so"}')
    assert (cursor.step, window.sent, len(window.frames)) == (0, 0, 1)
    assert window.next_unsent() is not None
    assert window.read('{"outputs": [[3.0]], "step": 1, "replayed": false}') == [[3.0]]
    assert (cursor.step, len(window.frames)) == (1, 0)
