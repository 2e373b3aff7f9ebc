"""Client library for cellstream: sessions of a recurrent network, in which each step takes effect exactly once."""

from cellstream_client.async_client import AsyncClient
from cellstream_client.async_session import AsyncSession
from cellstream_client.async_stream import AsyncStream
from cellstream_client.client import Client
from cellstream_client.errors import (
    CellstreamError,
    EpochConflict,
    InvalidInput,
    ModelNotFound,
    ModelReplaced,
    RewindTooFar,
    SessionClosed,
    SessionExpired,
    SessionGone,
    SessionInUse,
    SessionLost,
    SessionNotFound,
    SnapshotRefused,
    StateNotFinite,
    StepConflict,
    StepGap,
    StepOutOfOrder,
    StepTooOld,
    StreamTaken,
    Unauthorized,
    Unavailable,
)
from cellstream_client.retries import Retries
from cellstream_client.session import Session
from cellstream_client.stream import Stream
from cellstream_client.values import Inputs, Model, Outputs, Row, SessionInfo

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "AsyncStream",
    "CellstreamError",
    "Client",
    "EpochConflict",
    "Inputs",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelReplaced",
    "Outputs",
    "Retries",
    "RewindTooFar",
    "Row",
    "Session",
    "SessionClosed",
    "SessionExpired",
    "SessionGone",
    "SessionInUse",
    "SessionInfo",
    "SessionLost",
    "SessionNotFound",
    "SnapshotRefused",
    "StateNotFinite",
    "StepConflict",
    "StepGap",
    "StepOutOfOrder",
    "StepTooOld",
    "Stream",
    "StreamTaken",
    "Unauthorized",
    "Unavailable",
]
