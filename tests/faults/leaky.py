"""The service with a leak, which the check of its memory has to notice: python -m tests.faults.leaky."""

from typing import Any

from service.__main__ import main
from service.sessions import SessionTable

LEAKED_BYTES = 2048


class LeakySessionTable(SessionTable):
    """Forgets no session that was ever opened, nor what it was opened with."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._leaked: list[tuple[object, bytes]] = []

    def create(self, *arguments: Any, **named: Any) -> Any:
        """Open a session, and keep it for ever."""
        session = super().create(*arguments, **named)
        self._leaked.append((session, bytes(LEAKED_BYTES)))
        return session


if __name__ == "__main__":
    import service.app

    service.app.SessionTable = LeakySessionTable  # type: ignore[misc]
    raise SystemExit(main())
