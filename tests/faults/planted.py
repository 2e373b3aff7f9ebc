"""The service with a fault of its own, which the fault test has to find: python -m tests.faults.planted.

The variable FAULTS_PLANTED names the fault. Each time that it strikes, a line with the session and the steps goes to
standard error, so that what is found can be compared with what was done.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

from service.__main__ import main
from service.engine.chunk import Chunk
from service.engine.work import Commit, Outcome, Replay
from service.sessions.session import Session
from service.sessions.table import SessionTable

VARIABLE = "FAULTS_PLANTED"
MARK = "PLANTED"
_LEAKED = b"x" * 16_384
_STRIKES_AT = 20


def leak() -> None:
    """Forget no session that was ever opened, nor something that came with it."""
    create, leaked = SessionTable.create, list[tuple[Session, bytearray]]()

    def create_and_keep(table: SessionTable, *arguments: Any, **named: Any) -> Session:
        session = create(table, *arguments, **named)
        leaked.append((session, bytearray(_LEAKED)))
        return session

    SessionTable.create = create_and_keep  # type: ignore[method-assign, assignment]


def double() -> None:
    """Take a request that is sent again as a new one."""
    check = Session.check

    def run_again(session: Session, chunk: Chunk) -> Outcome | None:
        outcome = check(session, chunk)
        if not isinstance(outcome, Replay):
            return outcome
        _tell(session, chunk.number, chunk.steps)
        return None

    Session.check = run_again  # type: ignore[method-assign, assignment]


def drop() -> None:
    """Count one request of each session, answer it, and leave its state as it was."""

    def keep_the_old_state(session: Session, slot: int, taken: int) -> None:
        session.slot = slot
        _tell(session, session.step - taken + 1, taken)

    _at_one_request(keep_the_old_state)


def forget() -> None:
    """Go back behind one request of each session when it has been answered."""

    def go_back(session: Session, slot: int, taken: int) -> None:
        asyncio.get_running_loop().call_soon(_go_back, session, slot, taken)

    _at_one_request(go_back)


def _at_one_request(strike: Callable[[Session, int, int], None]) -> None:
    """Have a fault strike when a session passes a certain step; the row of the state before stays there for it."""
    advance = Session.advance

    def advance_with_fault(session: Session, commit: Commit, now: float) -> int:
        before, steps = session.slot, commit.step - session.step
        strikes = session.step < _STRIKES_AT <= commit.step
        if strikes:
            session.model.arena.slots.share(before)
        gone = advance(session, commit, now)
        if strikes:
            strike(session, before, steps)
        return gone

    Session.advance = advance_with_fault  # type: ignore[method-assign, assignment]


def _go_back(session: Session, slot: int, taken: int) -> None:
    if session.busy is None:
        _tell(session, session.step - taken + 1, taken)
        session.slot, session.step, session.taken = slot, session.step - taken, 0


def _tell(session: Session, first: int, steps: int) -> None:
    print(MARK, session.id, first, first + steps - 1, file=sys.stderr, flush=True)


PLANTS = {plant.__name__: plant for plant in (leak, double, drop, forget)}

if __name__ == "__main__":
    PLANTS[os.environ[VARIABLE]]()
    raise SystemExit(main())
