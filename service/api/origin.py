"""Requests that a web page of somebody else sends through a browser on this machine.

A service without API keys listens on loopback only. A browser on the same machine can still reach it: from a page of
another origin, or from a page whose name was made to point at this machine (DNS rebinding). Such requests carry an
`Origin`, or a `Host` that is a public name.
"""

import ipaddress

from service.errors import ForeignOrigin

_MAX_KNOWN = 64


class LocalOrigins:
    """Checks that the Host and the Origin of requests are names of this machine or of a private network.

    `known` caches pairs (Host, Origin) that have been found to be so; these need not be checked.
    """

    def __init__(self) -> None:
        self.known: set[tuple[bytes | None, bytes | None]] = set()

    def check(self, host: bytes | None, origin: bytes | None) -> None:
        """Raise ForeignOrigin where one of them is a public name; a request may have none."""
        if host is not None and not _is_local(host):
            raise ForeignOrigin("Host", host)
        if origin is not None and not _is_local(origin.partition(b"://")[2]):
            raise ForeignOrigin("Origin", origin)
        if len(self.known) < _MAX_KNOWN:
            self.known.add((host, origin))


def _is_local(host: bytes) -> bool:
    """Tell whether HOST or HOST:PORT is a loopback or private address, or a name that no public DNS has: one label."""
    text = host.decode("latin-1").lower()
    name = text[1:].partition("]")[0] if text.startswith("[") else text.rpartition(":")[0] if ":" in text else text
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name.endswith(".localhost"))
    return address.is_loopback or address.is_private
