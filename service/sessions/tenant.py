"""The live sessions of one tenant, by id, by model and name, and from the oldest to the newest."""

from service.sessions.session import Session


class NextOpened:
    """The id of the session that a tenant opens next; None until it does.

    Sessions that end while they are the tenant's newest share one instance. When a session is opened, its id is set, so
    that their tombstones know which session follows.
    """

    __slots__ = ("id",)

    def __init__(self) -> None:
        self.id: str | None = None


class Tenant:
    """The sessions of one tenant.

    `sessions` has each session by its id. `named` has those with a name, by the name of the model and then their own;
    it contains no empty dict. `oldest` and `newest` are the ends of a doubly linked list of all sessions, by the time
    at which they were opened, with the links `session.newer` and `session.older`. `_next` is the `NextOpened` for the
    next session; its id is None.
    """

    __slots__ = ("_next", "named", "newest", "oldest", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.named: dict[str, dict[str, Session]] = {}
        self.oldest: Session | None = None
        self.newest: Session | None = None
        self._next = NextOpened()

    def find(self, model: str, key: str) -> Session | None:
        """Return the session of a model that has the key as its name; else the session of any model with this id."""
        names = self.named.get(model)
        session = names.get(key) if names is not None else None
        return session if session is not None else self.sessions.get(key)

    def add(self, session: Session) -> None:
        """Add a session as the newest."""
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
        """Set the name of a session, which no other session of its model may have, or remove it."""
        if session.name is not None:
            names = self.named[session.model.name]
            del names[session.name]
            if not names:
                del self.named[session.model.name]
        session.name = name
        if name is not None:
            self.named.setdefault(session.model.name, {})[name] = session

    def remove(self, session: Session) -> str | NextOpened:
        """Remove a session; return the id of the session opened after it, or the `NextOpened` that will have it."""
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
