"""Random values: JSON near what the operations expect, ids, bytes, and small changes to bytes."""

import json
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 0.5, 1e39, -3.5e38, 1e308, 2**31, 2**63 - 1, 2**63, 10**30, 1e-320, True, None, "1", "", "é")
TEXTS = ("", "a", "é", "\x00", "\x1f1", "x" * 200, "../..", "lstm", "%2e%2e", "r0-abcd-0123456789012345678901")
NAMES: tuple[str, ...] = (
    "inputs",
    "step",
    "epoch",
    "sessions",
    "steps",
    "epochs",
    "create",
    "history",
    "state",
    "keep",
    "idle_limit",
)
NAMES += ("requests", "parameters", "outputs", "id", "name", "shape", "datatype", "data", "ready", "binary_data_size")
DATATYPES = ("FP32", "FP64", "INT64", "UINT64", "BYTES", "BOOL", "fp32", "")
BYTES = (b"", b"\x00", b"\xff", b"\r\n", b"\r", b"\n", b" ", b":", b"{", b"}", b"[", b"]", b",", b'"', b"%", b"0" * 50)


def value(rng: Random, depth: int = 3) -> Any:
    """Return a random JSON value."""
    kind = rng.randrange(6 if depth else 2)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind < 4:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def rows(rng: Random, features: int) -> list[list[float]]:
    """Return steps of the right width."""
    return [[rng.uniform(-1, 1) for _ in range(features)] for _ in range(rng.randrange(1, 4))]


def changed(rng: Random, given: Any) -> Any:
    """Return a copy of a JSON value in which one part is another value, or is missing."""
    if rng.random() < 0.3 or not isinstance(given, (dict, list)) or not given:
        return value(rng, 2)
    if isinstance(given, list):
        at = rng.randrange(len(given))
        return [*given[:at], *([changed(rng, given[at])] if rng.random() < 0.8 else []), *given[at + 1 :]]
    name = rng.choice(list(given))
    rest = {key: item for key, item in given.items() if key != name or rng.random() < 0.8}
    return rest | {name if rng.random() < 0.8 else rng.choice(NAMES): changed(rng, given[name])}


def damaged(rng: Random, data: bytes) -> bytes:
    """Return bytes in which a few were changed, removed, added, repeated or moved."""
    for _ in range(rng.randrange(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.choice((0, 1, 1, 2, 8, 40))
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:at] + rng.randbytes(length) + data[at + length :]
        elif kind == 1:
            data = data[:at] + data[at + length :]
        elif kind == 2:
            data = data[:at] + rng.choice(BYTES) + data[at:]
        elif kind == 3:
            data = data[: at + length] + data[at:]
        else:
            cut = data[at : at + length]
            data = data[:at] + data[at + length :] + cut
    return data


def encoded(rng: Random, given: Any) -> bytes:
    """Return a value as JSON, sometimes damaged."""
    body = json.dumps(given, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return damaged(rng, body) if rng.random() < 0.2 else body
