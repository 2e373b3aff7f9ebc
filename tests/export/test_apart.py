"""Nothing that a foreign file holds ends the process that adopts it."""

import os
import signal
import time
from pathlib import Path

import pytest
from onnx import ModelProto

from export import ExportOptions
from export.adopt.apart import run_apart
from export.adopt.errors import EndedProcessError, UnsettledStatesError
from tests.export.served import graph
from tests.export.test_adopt import assert_refused, invoke
from tests.export.zoo import write

_GRU = {"W": (1, 15, 4), "R": (1, 15, 5), "B": (1, 30)}
_OPTIONS = ExportOptions()


def cut(where: str, stop: int) -> ModelProto:
    """Return a GRU with its states, of which steps from `stop` on, or none, are cut from what it reads or gives."""
    nodes = {
        "before": "few = Slice (x, from, to, zero)  Y, hn = GRU <hidden_size = 5> (few, W, R, B, , h0)"
        "  y = Squeeze (Y, one)",
        "behind": "Y, hn = GRU <hidden_size = 5> (x, W, R, B, , h0)  all = Squeeze (Y, one)"
        "  y = Slice (all, from, to, zero)",
    }
    return graph(
        f"""net (float[t,n,4] x, float[1,n,5] h0) => (float[s,n,5] y, float[1,n,5] hn)
        {{ zero = Constant <value = int64[1] {{0}}> ()  one = Constant <value = int64[1] {{1}}> ()
          from = Constant <value = int64[1] {{{stop}}}> ()  to = Constant <value = int64[1] {{{9999 * stop}}}> ()
          {nodes[where]} }}""",
        **_GRU,
    )


@pytest.mark.parametrize("stop", [0, 1])
def test_an_output_without_steps_is_refused(stop: int, tmp_path: Path) -> None:
    """onnxruntime's Scan divides by the number of values: the sentence comes first, and names the output."""
    file = write(cut("behind", stop), tmp_path / "foreign.onnx")
    words = r"the output 'y' has no values for one step of x float32\[t, n, 4\].*--step x=SIZE"
    assert_refused(invoke("adopt", file, "--out", tmp_path / "out/m/1"), tmp_path, words)


@pytest.mark.parametrize("stop", [0, 1])
def test_a_layer_without_steps_is_refused(stop: int, tmp_path: Path) -> None:
    """onnxruntime aborts where a GRU is given no steps: it ends a process that nothing else depends on."""
    file = write(cut("before", stop), tmp_path / "foreign.onnx")
    words = r"ended the process that ran it \(SIGABRT, while: .*recurrent layer is given no steps"
    assert_refused(invoke("adopt", file, "--out", tmp_path / "out/m/1"), tmp_path, words)
    assert_refused(invoke("adopt", file, "--explain"), tmp_path, words)


@pytest.mark.parametrize("number", [signal.SIGFPE, signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_ended_is_told_by_its_signal(number: signal.Signals) -> None:
    """Whatever ends the child, the parent goes on and says what was under way."""

    def work(options: ExportOptions) -> None:
        options.on_progress("counting")
        os.kill(os.getpid(), number)

    with pytest.raises(EndedProcessError, match=f"{number.name}, while: counting"):
        run_apart(work, _OPTIONS)


def test_what_is_told_returned_and_raised_is_passed_on() -> None:
    """Findings and progress in their order, results, and exceptions with what they hold."""
    told: list[str] = []
    options = ExportOptions(on_progress=told.append, on_finding=told.append)

    def work(options: ExportOptions) -> int:
        options.on_progress("one")
        options.on_finding("two")
        options.on_progress("three")
        return os.getpid()

    assert run_apart(work, options) != os.getpid()
    assert told == ["one", "two", "three"]

    def refuse(options: ExportOptions) -> None:
        raise UnsettledStatesError("a question", ["a", "b"], "--state", {"h": "h_out"})

    with pytest.raises(UnsettledStatesError, match="a question: a; b") as refused:
        run_apart(refuse, options)
    assert refused.value.states == {"h": "h_out"}


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    """An exception that is no refusal is raised with the lines in which it came about, also if it cannot be sent."""

    class Local(Exception):
        pass

    def fail(options: ExportOptions) -> None:
        raise KeyError("missing")

    def fail_locally(options: ExportOptions) -> None:
        raise Local("here")

    with pytest.raises(KeyError) as failed:
        run_apart(fail, _OPTIONS)
    assert "in fail" in failed.value.__notes__[0]
    with pytest.raises(RuntimeError, match="in fail_locally"):
        run_apart(fail_locally, _OPTIONS)


def test_an_interrupt_ends_the_child(tmp_path: Path) -> None:
    """Ctrl-C while the child works: the parent raises it, and no process is left."""
    number = tmp_path / "pid"

    def work(options: ExportOptions) -> None:
        number.write_text(str(os.getpid()))
        options.on_progress("sleeping")
        time.sleep(60)

    def interrupt(what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_apart(work, ExportOptions(on_progress=interrupt))
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)
