"""All settings, each of them an environment variable (CELLSTREAM_…) and a flag (python -m service --help)."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_YEAR = 366 * 86_400.0
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,32}$")]


class Settings(BaseSettings):
    """Serve recurrent networks with their state, one step at a time."""

    model_config = SettingsConfigDict(
        env_prefix="CELLSTREAM_",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        frozen=True,
        extra="forbid",
    )

    artifacts: Path = Field(Path("artifacts"), description="folder of artefacts: MODEL/VERSION/model.onnx")
    host: str = Field("127.0.0.1", description="address to listen on; one that is not loopback needs API keys")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    api_key_file: Path | None = Field(
        None,
        description="file of API keys, one per line: tenant:sha256-of-the-key, maybe with a role, :metrics or :admin",
    )
    replica: Name = Field("r0", description="this replica's name, the first part of every session id")

    provider: Literal["cpu", "cuda"] = Field("cpu", description="onnxruntime's execution provider")
    threads: int = Field(1, ge=1, le=256, description="intra-op threads of onnxruntime for each model")
    turn_ms: float = Field(
        2.0, gt=0, le=1000, description="longest round of the engine in ms; longer work is cut into pieces"
    )

    state_memory: ByteSize = Field(ByteSize(1 << 30), description="memory for all sessions' states, such as 512MiB")
    max_sessions: int = Field(1_000_000, ge=1, description="most sessions of one model; fewer if the memory is full")
    idle_limit: float = Field(900.0, gt=0, le=_YEAR, description="seconds after which an idle session ends")
    max_idle_limit: float = Field(
        86_400.0, gt=0, le=_YEAR, description="longest idle limit in seconds that a client may ask for"
    )

    watch: float = Field(
        2.0, ge=0, le=3600, description="seconds between checks for new versions of models; 0: only on SIGHUP"
    )
    retire_after: float = Field(
        3600.0, gt=0, le=_YEAR, description="seconds after which sessions of a replaced version end"
    )

    model_control: bool = Field(
        False, description="let clients load and unload models by the Open Inference Protocol's repository routes"
    )

    tenant_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="largest share of a model's sessions and of its queue that one tenant may hold, where several "
        "tenants have API keys; 1: no limit",
    )
    queue_limit: int = Field(1024, ge=1, description="most requests waiting for one model; further ones are refused")
    session_queue_limit: int = Field(64, ge=1, description="most waiting requests of one session")
    deadline: float = Field(5.0, gt=0, le=3600, description="seconds that a request may wait in the queue")
    step_body: ByteSize = Field(ByteSize(1 << 20), description="largest body of a step request")
    step_steps: int = Field(1024, ge=1, description="most time steps in one step request")
    step_elements: int = Field(65_536, ge=1, description="most numbers in one step request")
    predict_body: ByteSize = Field(ByteSize(16 << 20), description="largest body of a predict request")
    predict_steps: int = Field(
        65_536, ge=1, description="most time steps in one predict request, all sequences together"
    )
    predict_elements: int = Field(1 << 20, ge=1, description="most numbers in one predict request")
    frame_size: ByteSize = Field(ByteSize(256 << 10), description="largest WebSocket message")
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="most open connections, WebSockets included; further ones get 503"
    )
    request_timeout: float = Field(10.0, gt=0, le=3600, description="seconds within which a request has to be complete")
    grace: float = Field(15.0, gt=0, le=3600, description="seconds that running requests have when the service stops")

    fast_path: bool = Field(True, description="answer steps, predictions and streams without going through FastAPI")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")

    @model_validator(mode="before")
    @classmethod
    def _refuse_renamed_variables(cls, fields: Any) -> Any:
        if "CELLSTREAM_HOT_LANE" in os.environ:
            raise ValueError("CELLSTREAM_HOT_LANE has been renamed: set CELLSTREAM_FAST_PATH")
        return fields

    @model_validator(mode="after")
    def _keys_unless_loopback(self) -> Self:
        if self.api_key_file is None and not is_loopback(self.host):
            raise ValueError(
                f"--host {self.host} can be reached from other machines, so it needs API keys: give --api-key-file, "
                "or listen on 127.0.0.1"
            )
        return self


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
