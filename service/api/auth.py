"""Authentication by API keys, each of which belongs to a tenant."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from service.api.origin import LocalOrigins
from service.errors import RefusedToStart, Role, RoleNeeded, Unauthorized

PUBLIC = "public"
"""The only tenant of a service without API keys."""

_LINE = re.compile(rf"([A-Za-z0-9][A-Za-z0-9_.-]{{0,63}}):([0-9a-fA-F]{{64}})(?::({'|'.join(Role)}))?")


class Authenticator:
    """Maps the API key in a request's headers to its tenant; without keys, all requests belong to one tenant.

    Without keys, requests that web pages of others send through a browser are refused. `_path` is the file that the
    keys were read from, at the time of modification `_modified`. `generation` counts how often they were read.
    """

    def __init__(self, keys: tuple[tuple[bytes, str], ...] = (), roles: Mapping[bytes, Role] | None = None) -> None:
        """Create one from pairs (SHA-256 digest of a key, tenant), and the roles of keys that have one, by digest."""
        self._keys, self._roles = keys, roles or {}
        self._origins = LocalOrigins()
        self.generation = 0
        self._path: Path | None = None
        self._modified = 0

    @classmethod
    def from_file(cls, path: Path) -> "Authenticator":
        """Read lines `tenant:sha256` or `tenant:sha256:role` from a file; empty lines and lines with # are ignored.

        Raises:
            RefusedToStart: The file cannot be read, has an invalid line or the same key twice, or has no key.
        """
        made = cls()
        made._path = path
        made.reload()
        return made

    def reload(self, *, only_changed: bool = False) -> bool:
        """Read the file of keys again, if there is one, and tell whether that was done.

        Args:
            only_changed: Do nothing unless the file was modified since it was read.

        Raises:
            RefusedToStart: The file is not valid, see `from_file`; the keys stay as they were.
        """
        path = self._path
        if path is None:
            return False
        try:
            modified = path.stat().st_mtime_ns
            if only_changed and modified == self._modified:
                return False
            self._modified = modified
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise RefusedToStart(f"the API key file {path} cannot be read: {exc}") from exc
        self._keys, self._roles = _read_keys(path, lines)
        self.generation += 1
        return True

    @property
    def tenants(self) -> int:
        """The number of tenants that share the service: those that have a key without a role; at least 1."""
        return len({tenant for digest, tenant in self._keys if digest not in self._roles}) or 1

    def check_role(self, headers: Mapping[bytes, bytes], role: Role) -> None:
        """Check that a request, whose key is known, may do what concerns all tenants.

        Raises:
            RoleNeeded: Several tenants have keys, and this key has not the role.
        """
        if self.tenants > 1 and self._roles.get(_digest(headers)) != role:
            raise RoleNeeded(role)

    def tenant(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the tenant of a request.

        Raises:
            Unauthorized: The request has no key, or an unknown one.
            ForeignOrigin: There are no keys, and a web page of another origin sent the request.
        """
        if not self._keys:
            names = headers.get(b"host"), headers.get(b"origin")
            if names not in self._origins.known:
                self._origins.check(*names)
            return PUBLIC
        digest = _digest(headers)
        found = None
        for known, tenant in self._keys:  # all keys are compared, so that the time taken reveals nothing
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise Unauthorized
        return found


def _read_keys(path: Path, lines: list[str]) -> tuple[tuple[tuple[bytes, str], ...], dict[bytes, Role]]:
    """Return the pairs (SHA-256 digest of a key, tenant) of a file's lines, and the roles by digest.

    Raises:
        RefusedToStart: A line is not valid, a key is there twice, or there is none.
    """
    keys: list[tuple[bytes, str]] = []
    roles: dict[bytes, Role] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise RefusedToStart(
                f"{path}, line {number}: expected tenant:sha256, 64 hexadecimal digits after the colon, and "
                f"nothing or {' or '.join(f':{role}' for role in Role)} after them"
            )
        digest = bytes.fromhex(match[2])
        if any(digest == known for known, _ in keys):
            raise RefusedToStart(f"{path}, line {number}: the same key is in an earlier line")
        keys.append((digest, match[1]))
        if match[3]:
            roles[digest] = Role(match[3])
    if not keys:
        raise RefusedToStart(f"{path}: expected at least one line tenant:sha256, found none")
    return tuple(keys), roles


def _digest(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the SHA-256 digest of a request's key; raise Unauthorized where it has none."""
    key = headers.get(b"x-api-key")
    if key is None:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized
    return hashlib.sha256(key.strip()).digest()
