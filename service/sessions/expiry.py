"""Expiry: which sessions may have been idle for too long, found without looking at all of them."""

from service.sessions.session import UNSCHEDULED, Session


class _Second:
    """The sessions that were going to expire within one second when they were scheduled.

    `sessions` also holds those removed since, as often as they were: `removed` counts these. A session that is still
    scheduled has this second in `expiry_second`. Once half of the list is removed ones, it is cleared of them, so
    that removing takes constant time on average.
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
        """Take out the last session of the list; None where that one had been removed before."""
        session = self.sessions.pop()
        if session.expiry_second != self.number:
            self.removed -= 1
            return None
        session.expiry_second = UNSCHEDULED
        return session


class Expiry:
    """The schedule of idle limits: each session is in the second in which it expires unless it is used until then.

    A session that is used stays where it is, so that using it costs nothing: when its second is over, whoever asked
    for it with `due` schedules it again, or ends it.

    A scheduled session is in exactly one second, `session.expiry_second`, later than `_checked`; or in `_checking`,
    which is the second `_checked` where any sessions of it are left. `_seconds` holds no second without sessions.
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
        """Whether the last call of `due` left sessions that it could have given."""
        return bool(self._checking.sessions)

    def add(self, session: Session) -> None:
        """Schedule a session by its idle limit.

        Raises:
            ValueError: It is scheduled already.
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
        """Take a session out of the schedule, if it is in it."""
        number = session.expiry_second
        if number == UNSCHEDULED:
            return
        second = self._seconds.get(number, self._checking)
        second.remove(session)
        if not second.sessions and second is not self._checking:
            del self._seconds[number]
        self._count -= 1

    def due(self, now: float, most: int) -> list[Session]:
        """Take out those whose idle limits may have passed by `now`, having looked at `most` sessions at most."""
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
        """Go on to the next second that has sessions, up to `now`; return whether there is one."""
        while not self._checking.sessions:
            if self._checked >= now:
                return False
            self._checked += 1
            self._checking = self._seconds.pop(self._checked, self._checking)
        return True
