"""All families of requests, by name."""

from tests.recorded.script import (
    Family,
    control,
    expiry,
    fleets,
    limits,
    models,
    raw,
    server,
    sessions,
    snapshots,
    steps,
    stopping,
    streams,
    swap,
    tenants,
    v2_fleets,
    v2_infer,
    v2_sequences,
)

FAMILIES: dict[str, Family] = {
    module.__name__.rpartition(".")[2]: module.FAMILY
    for module in (
        *(server, models, steps, sessions, snapshots, fleets, streams, tenants, raw, limits, expiry, swap, stopping),
        *(v2_infer, v2_sequences, v2_fleets, control),
    )
}
