"""Run the service of the working directory, and count the function calls of each step that it answers.

`python PATH/probe.py FILE FLAGS…` is `python -m service FLAGS…` with a profile function that SIGUSR1 sets; SIGUSR2
takes it away and writes what was counted to FILE. It imports nothing of the tree but what `python -m service` does.

A step begins when the connection's protocol is given bytes, and ends when it is given the next ones; so its answer is
written and its task has ended. Steps have to come one after the other, over one connection.
"""

import json
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_BEGINNINGS = ("data_received", "buffer_updated")


class Calls:
    """Counts, for each step, the Python functions entered and the C functions called."""

    def __init__(self) -> None:
        self.steps: list[tuple[Counter[CodeType], Counter[str]]] = []
        self._python: Counter[CodeType] = Counter()
        self._c: Counter[str] = Counter()

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code.co_name in _BEGINNINGS and (frame.f_back is None or frame.f_back.f_code.co_name != code.co_name):
                self._begin()
            self._python[code] += 1
        elif event == "c_call":
            self._c[f"{getattr(argument, '__module__', None) or 'builtins'} {argument.__qualname__}"] += 1

    def _begin(self) -> None:
        self._python, self._c = Counter(), Counter()
        self.steps.append((self._python, self._c))

    def commonest(self) -> dict[str, Any]:
        """Return the counts of the step that came most often, and how many steps were like it.

        The first step may have been counted in part, and the last one may not have ended.
        """
        steps = self.steps[1:-1]
        totals = Counter((python.total(), c.total()) for python, c in steps)
        (most, times), *_ = totals.most_common(1)
        python, c = next(step for step in steps if (step[0].total(), step[1].total()) == most)
        return {
            "steps": len(steps),
            "like_this": times,
            "python": {f"{_file(code)} {code.co_qualname}": count for code, count in python.items()},
            "c": dict(c),
        }


def _file(code: CodeType) -> str:
    """Return a function's file, from its package on."""
    path = code.co_filename
    for folder in sorted(filter(None, {os.getcwd(), *sys.path}), key=len, reverse=True):
        if path.startswith(folder + os.sep):
            return path[len(folder) + 1 :]
    return path


def main() -> None:
    """Run the service with the profile function at hand."""
    file, calls = sys.argv[1], Calls()
    profile: Callable[[FrameType, str, Any], None] = calls.profile

    def stop(*_: object) -> None:
        sys.setprofile(None)
        with open(file + ".part", "w") as out:
            json.dump(calls.commonest(), out)
        os.rename(file + ".part", file)

    signal.signal(signal.SIGUSR1, lambda *_: sys.setprofile(profile))
    signal.signal(signal.SIGUSR2, stop)
    sys.argv = ["service", *sys.argv[2:]]
    sys.path[0] = os.getcwd()
    runpy.run_module("service", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
