import argparse
import socket
from pathlib import Path

import pytest

from examples.running import HOST, ServiceUnavailableError, free_port, integer_in, running_service


def test_a_port_in_use_is_not_taken() -> None:
    """The preferred port is used when it is free, and another one when it is not."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(taken) == taken


@pytest.mark.parametrize("text", ["x", "", "1.5", "-1", "65536"])
def test_an_invalid_port_is_refused(text: str) -> None:
    """Text that is no whole number and numbers out of range are refused with the same message."""
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a whole number from 0 to 65535, got {text}"):
        integer_in(0, 65_535)(text)


def test_a_service_that_ends_at_once_says_why(tmp_path: Path) -> None:
    """When the service refuses to start, the error contains its exit status and the end of its log."""
    artefact = tmp_path / "artifacts" / "broken" / "1" / "model.onnx"
    artefact.parent.mkdir(parents=True)
    artefact.write_bytes(b"not an artefact")
    with (
        pytest.raises(ServiceUnavailableError, match=r"ended with status(.|\n)*broken"),
        running_service(tmp_path / "artifacts", free_port(0), tmp_path / "service.log"),
    ):
        pass
