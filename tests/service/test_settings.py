"""Every setting is a flag and an environment variable, and an invalid value is refused with the flag's name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=os.environ | environment, check=False
    )


def test_help_names_every_setting() -> None:
    """The help lists every setting."""
    text = run("--help", COLUMNS="200").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_flags_override_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A flag overrides its environment variable."""
    monkeypatch.setenv("CELLSTREAM_PORT", "9001")
    monkeypatch.setenv("CELLSTREAM_STATE_MEMORY", "3MiB")
    settings = Settings(artifacts=tmp_path, port=9002)
    assert settings.port == 9002
    assert settings.state_memory == 3 << 20


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "70000"),
        ("--threads", "0"),
        ("--idle-limit", "-1"),
        ("--idle-limit", "inf"),
        ("--max-idle-limit", "1e300"),
        ("--state-memory", "lots"),
        ("--deadline", "nan"),
        ("--replica", "a-b"),
    ],
)
def test_an_invalid_value_is_refused(flag: str, value: str) -> None:
    """An invalid value is refused with the flag's name and the exit status 2."""
    result = run(flag, value)
    assert result.returncode == 2
    assert flag in result.stderr
    assert "Traceback" not in result.stderr
