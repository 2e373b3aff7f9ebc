"""Schedule of sessions by idle limit, to find those that have expired without checking all of them."""

from service.sessions.session import UNSCHEDULED, Session


class _Second:
    """The sessions that are scheduled for one second.

    The `expiry_second` of a session that is scheduled for this second is `number`. `sessions` also has sessions that
    were removed, once for each removal; `removed` counts these. When they are half of the list, they are deleted from
    it, so that a removal takes constant time on average.
    """

    __slots__ = ("number", "removed", "sessions")

    def __init__(self, number: int) -> None:
        self.number, self.removed = number, 0
        self.sessions: list[Session] = []

    def remove(self, session: Session) -> None:
        session.expiry_second = UNSCHEDULED
        self.removed += 1
        if 2 * self.removed >= len(self.sessions):
            number = self.number
            self.sessions = [session for session in dict.fromkeys(self.sessions) if session.expiry_second == number]
            self.removed = 0

    def pop(self) -> Session | None:
        """Remove the last session of the list and return it, None where it had been removed before."""
        session = self.sessions.pop()
        if session.expiry_second != self.number:
            self.removed -= 1
            return None
        session.expiry_second = UNSCHEDULED
        return session


class Expiry:
    """The schedule of sessions: each is scheduled for the second in which it expires unless it is used before.

    Using a session does not change the schedule, so it costs nothing. When its second is over, `due` removes it from
    the schedule and returns it; the caller ends it, or adds it again where it has been used.

    A scheduled session is in exactly one second, number `session.expiry_second`. That is in `_seconds`, which has by
    number the seconds later than `_checked` that have sessions; or it is `_checking`, the second with the number
    `_checked`, from which `due` has not returned all sessions yet. `_count` is the number of scheduled sessions.
    """

    def __init__(self, now: float) -> None:
        self._checked = int(now)
        self._checking = _Second(self._checked)
        self._seconds: dict[int, _Second] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Expiry {self._count} sessions in {len(self._seconds)} seconds after {self._checked}>"

    @property
    def pending(self) -> bool:
        """Whether the last call of `due` left sessions of a second that is over."""
        return bool(self._checking.sessions)

    def add(self, session: Session) -> None:
        """Schedule a session for the second in which it expires.

        Raises:
            ValueError: It is already scheduled.
        """
        if session.expiry_second != UNSCHEDULED:
            raise ValueError(f"expected a session that is not scheduled, found {session!r}")
        number = max(int(session.expires()) + 1, self._checked + 1)
        second = self._seconds.get(number)
        if second is None:
            second = self._seconds[number] = _Second(number)
        session.expiry_second = second.number
        second.sessions.append(session)
        self._count += 1

    def remove(self, session: Session) -> None:
        """Remove a session from the schedule, if it is scheduled."""
        number = session.expiry_second
        if number == UNSCHEDULED:
            return
        second = self._seconds.get(number, self._checking)
        second.remove(session)
        if not second.sessions and second is not self._checking:
            del self._seconds[number]
        self._count -= 1

    def due(self, now: float, most: int) -> list[Session]:
        """Remove and return sessions whose idle limits may have passed at `now` (seconds); check at most `most`."""
        found: list[Session] = []
        for _ in range(most):
            if not self._advance(int(now)):
                break
            session = self._checking.pop()
            if session is not None:
                found.append(session)
        self._count -= len(found)
        return found

    def _advance(self, now: int) -> bool:
        """Advance `_checking` to the next second that has sessions, up to `now`; return whether there is one."""
        while not self._checking.sessions:
            if self._checked >= now:
                return False
            self._checked += 1
            self._checking = self._seconds.pop(self._checked, self._checking)
        return True
