"""Digests that tell one request's content from another's, the same in every process and on every machine."""

from collections.abc import Callable, Iterable, Iterator

from xxhash import xxh3_64_intdigest

digest_of_one: Callable[[bytes], int] = xxh3_64_intdigest
"""Returns the digest of a content of one part without a name, by one call in C."""


def digest(parts: tuple[bytes, ...], name: str = "") -> int:
    """Return 64 bits of the parts, one behind the other, and of a name where there is one.

    XXH3 is no cryptographic hash: a client can construct two contents of one digest, but only for sessions of its own.
    """
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    return xxh3_64_intdigest(content, xxh3_64_intdigest(name.encode())) if name else digest_of_one(content)


def row_digests(contents: Iterable[bytes]) -> Iterator[int]:
    """Return the digest of each of many contents of one part."""
    return map(digest_of_one, contents)
