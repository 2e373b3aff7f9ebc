"""The service with a deliberate fault, which the fault injection tests must detect: python -m tests.faults.planted.

The environment variable FAULTS_PLANTED names the fault. Whenever the fault takes effect, a line with the session and
the steps is written to standard error, so that the detected violations can be compared with the actual ones.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

from service.__main__ import main
from service.engine.chunk import Chunk
from service.engine.work import Outcome, Replay
from service.sessions.session import Session
from service.sessions.table import SessionTable

VARIABLE = "FAULTS_PLANTED"
MARK = "PLANTED"
_LEAKED = b"x" * 16_384
_FAULTY_STEP = 20


def leak() -> None:
    """Keep a reference to every session that was opened, and further memory for each."""
    create, leaked = SessionTable.create, list[tuple[Session, bytearray]]()

    def create_and_keep(table: SessionTable, *arguments: Any, **named: Any) -> Session:
        session = create(table, *arguments, **named)
        leaked.append((session, bytearray(_LEAKED)))
        return session

    SessionTable.create = create_and_keep  # type: ignore[method-assign, assignment]


def duplicate() -> None:
    """Take a repeated request as a new one."""
    check = Session.check

    def run_again(session: Session, chunk: Chunk) -> Outcome | None:
        outcome = check(session, chunk)
        if not isinstance(outcome, Replay):
            return outcome
        _report(session, chunk.number, chunk.steps)
        return None

    Session.check = run_again  # type: ignore[method-assign, assignment]


def drop() -> None:
    """Count and answer one request of each session, but keep the state before it."""

    def keep_the_old_state(session: Session, slot: int, taken: int) -> None:
        session.slot = slot
        _report(session, session.step - taken + 1, taken)

    _at_one_request(keep_the_old_state)


def forget() -> None:
    """Reset each session to the state and step before one request, after that request has been answered."""

    def go_back(session: Session, slot: int, taken: int) -> None:
        asyncio.get_running_loop().call_soon(_go_back, session, slot, taken)

    _at_one_request(go_back)


def _at_one_request(fault: Callable[[Session, int, int], None]) -> None:
    """Call `fault` when a session passes the step _FAULTY_STEP; the row of its previous state is kept for this."""
    advance = Session.advance

    def advance_with_fault(session: Session, slot: int, step: int, digest: int, answer: bytes, now: float) -> int:
        before, steps = session.slot, step - session.step
        is_faulty = session.step < _FAULTY_STEP <= step
        if is_faulty:
            session.model.arena.slots.share(before)
        gone = advance(session, slot, step, digest, answer, now)
        if is_faulty:
            fault(session, before, steps)
        return gone

    Session.advance = advance_with_fault  # type: ignore[method-assign, assignment]


def _go_back(session: Session, slot: int, taken: int) -> None:
    if session.busy is None:
        _report(session, session.step - taken + 1, taken)
        session.slot, session.step, session.taken = slot, session.step - taken, 0


def _report(session: Session, first: int, steps: int) -> None:
    print(MARK, session.id, first, first + steps - 1, file=sys.stderr, flush=True)


FAULTS = {fault.__name__: fault for fault in (leak, duplicate, drop, forget)}

if __name__ == "__main__":
    FAULTS[os.environ[VARIABLE]]()
    raise SystemExit(main())
