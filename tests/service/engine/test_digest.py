"""Digests of requests."""

import os
import subprocess
import sys

import pytest

from service.engine.digest import digest, row_digests


def test_a_digest_is_the_same_in_every_process() -> None:
    """It does not depend on the seed of Python's own hashes, so that another replica recognises a request."""
    code = "from service.engine.digest import digest; print(digest((b'abc', b'def')), digest((b'abc',), 'name'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{digest((b'abc', b'def'))} {digest((b'abc',), 'name')}\n"}


@pytest.mark.parametrize("other", [((b"abd",), ""), ((b"abc",), "name"), ((b"abc", b"\0"), ""), ((b"",), "")])
def test_other_content_has_another_digest(other: tuple[tuple[bytes, ...], str]) -> None:
    """One byte, a name or one more input is enough."""
    assert digest(*other) != digest((b"abc",))


def test_rows_have_the_digests_of_single_requests() -> None:
    """A step is recognised when it is sent again, whether it came as a row of a fleet or alone."""
    rows = [b"a" * 64, b"b" * 64, b""]
    assert list(row_digests(rows)) == [digest((row,)) for row in rows]
