"""API keys: which tenant a request belongs to."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from service.errors import RefusedToStart, Unauthorized

PUBLIC = "public"
"""The one tenant of a service that runs without keys."""

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63}):([0-9a-fA-F]{64})")


class Authenticator:
    """Maps the key in a request's headers to its tenant; without keys, everybody is one tenant."""

    def __init__(self, keys: tuple[tuple[bytes, str], ...] = ()) -> None:
        """Take (SHA-256 digest of the key, tenant) pairs."""
        self._keys = keys

    @classmethod
    def from_file(cls, path: Path) -> "Authenticator":
        """Read lines `tenant:sha256`; blank lines and lines that begin with # are passed over.

        Raises:
            RefusedToStart: The file cannot be read, a line is of another form, or there is no key in it.
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
                raise RefusedToStart(f"{path}, line {number}: the key of this line stands in an earlier one already")
            keys.append((digest, match[1]))
        if not keys:
            raise RefusedToStart(f"{path}: expected at least one line tenant:sha256, found none")
        return cls(tuple(keys))

    def tenant(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the tenant of a request.

        Raises:
            Unauthorized: There is no key, or not one of ours.
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
        for known, tenant in self._keys:  # every key is compared, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise Unauthorized
        return found
