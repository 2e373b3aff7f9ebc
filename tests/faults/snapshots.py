"""P6: damaged snapshots. None may be accepted, and the session to which they are sent must not change."""

import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.faults.accumulator import NAME
from tests.faults.inprocess import OCTETS, InProcess

_SESSIONS = f"/v1/models/{NAME}/sessions"


@dataclass(slots=True)
class SnapshotResult:
    """The numbers of damaged files, by error code and by kind of damage; `wrong` lists unexpected results."""

    sent: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def flip_a_bit(file: bytes, rng: Random) -> bytes:
    return _flipped(file, rng, 1)


def flip_bits(file: bytes, rng: Random) -> bytes:
    return _flipped(file, rng, rng.randint(2, 32))


def truncate(file: bytes, rng: Random) -> bytes:
    return file[: rng.randrange(len(file))]


def lengthen(file: bytes, rng: Random) -> bytes:
    return file + rng.randbytes(rng.randint(1, 64))


def swap(file: bytes, rng: Random) -> bytes:
    """Exchange two adjacent pieces of the file."""
    at, middle, end = sorted(rng.sample(range(len(file) + 1), 3))
    return file[:at] + file[middle:end] + file[at:middle] + file[end:]


def overwrite(file: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(file))
    return file[:at] + rng.randbytes(rng.randint(1, 16)) + file[at + 16 :]


DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_a_bit,
    flip_a_bit,
    flip_a_bit,
    flip_bits,
    truncate,
    lengthen,
    swap,
    overwrite,
)


async def damage_snapshots(
    service: InProcess, count: int, seed: int = 1, progress: Callable[[int], None] = lambda sent: None
) -> SnapshotResult:
    """Send damaged snapshots as the state of an existing session, and as that of a new one, raw and in JSON."""
    rng, result = Random(seed), SnapshotResult()
    session = await service.open(NAME)
    path = f"/v1/sessions/{session}"
    await service.send("POST", f"{path}/steps", b'{"inputs":[[3],[4],[5]]}')
    snapshot = (await service.send("GET", f"{path}/state")).body
    # the session takes another step, so that an accepted snapshot would change its state
    await service.send("POST", f"{path}/steps", b'{"inputs":[[8]]}')
    before, live = (await service.send("GET", f"{path}/state")).body, len(service.service.sessions)
    while result.sent < count:
        damage = rng.choice(DAMAGES)
        file = damage(snapshot, rng)
        if file == snapshot:
            continue
        result.sent += 1
        result.damages[damage.__name__] += 1
        progress(1)
        method = rng.choice(("PUT", "PUT", "PUT", "raw", "JSON"))
        if method == "PUT":
            answer = await service.send("PUT", f"{path}/state", file, OCTETS)
        elif method == "raw":
            answer = await service.send("POST", _SESSIONS, file, OCTETS)
        else:
            body = json.dumps({"state": base64.b64encode(file).decode()}).encode()
            answer = await service.send("POST", _SESSIONS, body)
        fields = answer.json()
        if not 400 <= answer.status < 500 or "code" not in fields:
            result.wrong.append(f"{damage.__name__} by {method}: {answer.status} {fields}")
        result.codes[fields.get("code", "none")] += 1
        described = (await service.send("GET", path)).json()
        if described["step"] != 4 or described["epoch"] != 0:
            result.wrong.append(f"{damage.__name__} by {method}: the session is at {described}")
        if (await service.send("GET", f"{path}/state")).body != before:
            result.wrong.append(f"{damage.__name__} by {method}: the state has changed")
        if len(service.service.sessions) != live:
            result.wrong.append(f"{damage.__name__} by {method}: there are {len(service.service.sessions)} sessions")
    accepted = await service.send("PUT", f"{path}/state", snapshot, OCTETS)
    if accepted.status != 200 or accepted.json()["step"] != 3:
        result.wrong.append(f"the undamaged file is refused: {accepted.body!r}")
    await service.send("DELETE", path)
    return result


def _flipped(file: bytes, rng: Random, bits: int) -> bytes:
    flipped = bytearray(file)
    for bit in rng.sample(range(8 * len(file)), bits):
        flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)
