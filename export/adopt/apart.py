"""Run work in a process of its own: what a foreign file makes onnxruntime do cannot end the one that asked for it."""

import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TypeVar

from export.adopt.errors import EndedProcessError
from export.errors import ExportError
from export.options import ExportOptions

T = TypeVar("T")
_STDERR = 2


def run_apart(work: Callable[[ExportOptions], T], options: ExportOptions) -> T:
    """Return what `work` returns, from a child process; progress and findings are told here as they come.

    What is returned, and what is raised, is pickled. Only Linux forks safely: elsewhere the work is done here.

    Raises:
        EndedProcessError: The child was ended by a signal, as onnxruntime's own checks do.
        Exception: What `work` raised.
    """
    if not sys.platform.startswith("linux") or multiprocessing.current_process().daemon:
        return work(options)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(work, options, there), name="adopt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child uses nothing that they may hold
        child.start()
    there.close()
    under_way = "loading the model"
    try:
        while True:
            kind, told = here.recv()
            if kind == "result":
                result: T = told
                return result
            if kind == "error":
                raise told
            if kind == "progress":
                under_way = told
                options.on_progress(told)
            else:
                options.on_finding(told)
    except EOFError:
        child.join()
        raise EndedProcessError(_signal_name(child.exitcode), under_way) from None
    finally:
        here.close()
        child.kill()  # it has told all, or nobody waits for it any more
        child.join()


def _work(work: Callable[[ExportOptions], object], options: ExportOptions, parent: Connection) -> None:
    """Do the work in the child, tell the parent everything, and end without touching what the parent has opened."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends the child
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)  # what is printed there before a process is ended
    telling = replace(
        options,
        on_progress=lambda what: parent.send(("progress", what)),
        on_finding=lambda what: parent.send(("finding", what)),
    )
    try:
        message: tuple[str, object] = ("result", work(telling))
    except Exception as exc:  # whatever it is, the parent raises it
        message = ("error", _picklable(exc))
    parent.send(message)
    parent.close()
    os._exit(0)


def _picklable(exc: Exception) -> Exception:
    """Return an exception that can be sent, with its traceback as a note where it is not one of the exports' own."""
    told = "".join(traceback.format_exception(exc))
    if not isinstance(exc, ExportError):
        exc.add_note(told)
    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:  # of many types, by the exception's own constructor
        return RuntimeError(told)
    return exc


def _signal_name(exit_code: int | None) -> str:
    try:
        return signal.Signals(-(exit_code or 0)).name
    except ValueError:
        return f"exit status {exit_code}"
