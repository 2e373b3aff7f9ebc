"""Authentication by API keys, each of which belongs to a tenant."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from service.errors import RefusedToStart, Unauthorized

PUBLIC = "public"
"""The only tenant of a service without API keys."""

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63}):([0-9a-fA-F]{64})")


class Authenticator:
    """Maps the API key in a request's headers to its tenant; without keys, all requests belong to one tenant."""

    def __init__(self, keys: tuple[tuple[bytes, str], ...] = ()) -> None:
        """Create one from pairs (SHA-256 digest of a key, tenant)."""
        self._keys = keys

    @classmethod
    def from_file(cls, path: Path) -> "Authenticator":
        """Read lines `tenant:sha256` from a file; blank lines and lines that begin with # are ignored.

        Raises:
            RefusedToStart: The file cannot be read, has an invalid line or the same key twice, or has no key.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise RefusedToStart(f"the API key file {path} cannot be read: {exc}") from exc
        keys: list[tuple[bytes, str]] = []
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise RefusedToStart(
                    f"{path}, line {number}: expected tenant:sha256, 64 hexadecimal digits after the colon"
                )
            digest = bytes.fromhex(match[2])
            if any(digest == known for known, _ in keys):
                raise RefusedToStart(f"{path}, line {number}: the same key is in an earlier line")
            keys.append((digest, match[1]))
        if not keys:
            raise RefusedToStart(f"{path}: expected at least one line tenant:sha256, found none")
        return cls(tuple(keys))

    @property
    def tenants(self) -> int:
        """The number of tenants."""
        return len({tenant for _, tenant in self._keys}) or 1

    def tenant(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the tenant of a request.

        Raises:
            Unauthorized: The request has no key, or an unknown one.
        """
        if not self._keys:
            return PUBLIC
        key = headers.get(b"x-api-key")
        if key is None:
            scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthorized
        digest = hashlib.sha256(key.strip()).digest()
        found = None
        for known, tenant in self._keys:  # all keys are compared, so that the time taken reveals nothing
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise Unauthorized
        return found
