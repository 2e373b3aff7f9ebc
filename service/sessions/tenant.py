"""One tenant's live sessions: by id, by model and name, and linked in the sequence in which they were opened."""

from service.sessions.session import Session


class NextOpened:
    """The id of the session that a tenant opens next; None until it does.

    Sessions that end as the tenant's newest share one, so that it is known later which session was opened after them.
    """

    __slots__ = ("id",)

    def __init__(self) -> None:
        self.id: str | None = None


class Tenant:
    """The sessions of one tenant.

    `sessions` has each by its id. `named` has those with a name by the name of their model and their own; it holds no
    empty dict. From `oldest` to `newest`, `session.newer` leads through all of them as they were opened, and
    `session.older` back. `_next` is what sessions that end as the newest refer to: the next one to be opened.
    """

    __slots__ = ("_next", "named", "newest", "oldest", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.named: dict[str, dict[str, Session]] = {}
        self.oldest: Session | None = None
        self.newest: Session | None = None
        self._next = NextOpened()

    def find(self, model: str, key: str) -> Session | None:
        """Return the session of a model's name that has this name; else the one with this id, of whatever model."""
        names = self.named.get(model)
        session = names.get(key) if names is not None else None
        return session if session is not None else self.sessions.get(key)

    def add(self, session: Session) -> None:
        """Take in a session as the newest."""
        self.sessions[session.id] = session
        self._next.id, self._next = session.id, NextOpened()
        session.older = self.newest
        if self.newest is None:
            self.oldest = session
        else:
            self.newest.newer = session
        self.newest = session
        if session.name is not None:
            self.named.setdefault(session.model.name, {})[session.name] = session

    def rename(self, session: Session, name: str | None) -> None:
        """Give a session a name that no other has, or none."""
        if session.name is not None:
            names = self.named[session.model.name]
            del names[session.name]
            if not names:
                del self.named[session.model.name]
        session.name = name
        if name is not None:
            self.named.setdefault(session.model.name, {})[name] = session

    def remove(self, session: Session) -> str | NextOpened:
        """Let go of a session; return the id of the one that was opened after it, or what will tell that id."""
        del self.sessions[session.id]
        older, newer = session.older, session.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        session.older = session.newer = None
        self.rename(session, None)
        return newer.id if newer is not None else self._next
