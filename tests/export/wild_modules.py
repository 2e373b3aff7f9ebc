"""Run a module of docs/models.md in torch over 240 steps, alone in a process: python -m tests.export.wild_modules NAME.

The document's files and the packages are on PYTHONPATH. Inputs and outputs, (steps, *shape), are written to NAME.npz.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from export.figure import Array
from tests.export.wild import STEPS, drifting

Values = dict[str, Array]


def policy() -> tuple[Values, Values]:
    """Ask the policy for an action as its users do, by predict; every 50 steps an episode starts."""
    module: Any = importlib.import_module("my_policy").Policy().eval()
    obs, starts = drifting(8, low=-1, high=1), np.arange(STEPS) % 50 == 0
    state, actions = None, []
    for step in range(STEPS):
        action, state = module.policy.predict(obs[step : step + 1], state, starts[step : step + 1], deterministic=True)
        actions.append(action[0])
    return {"obs": obs, "episode_starts": starts}, {"y": np.stack(actions)}


def cfc() -> tuple[Values, Values]:
    """Run the whole sequence in one call."""
    x = drifting(8)
    return {"input": x}, {"y": importlib.import_module("my_liquid").cfc().eval()(torch.from_numpy(x)[None])[0][0]}


def ltc() -> tuple[Values, Values]:
    """Run the whole sequence in one call."""
    x = drifting(8)
    return {"input": x}, {"y": importlib.import_module("my_liquid").ltc().eval()(torch.from_numpy(x)[None])[0][0]}


def spiking() -> tuple[Values, Values]:
    """Run step by step, as spiking networks are."""
    module, x = importlib.import_module("my_spikes").Spiking().eval(), drifting(8, low=-4, high=4)
    state, spikes = None, []
    for step in range(STEPS):
        y, state = module(torch.from_numpy(x[step : step + 1]), state)
        spikes.append(y[0].numpy())
    return {"x": x}, {"y": np.stack(spikes)}


def slstm() -> tuple[Values, Values]:
    """Run the whole sequence in one call, through the package's own function of a step."""
    module, x = importlib.import_module("my_slstm").Block().eval(), drifting(8)
    functions = importlib.import_module("xlstm.blocks.slstm.src.vanilla").slstm_pointwise_function_registry
    module.slstm.pointwise = functions["slstm"]
    return {"x": x}, {"y": module(torch.from_numpy(x)[None])[0][0]}


MODULES: dict[str, Callable[[], tuple[Values, Values]]] = {
    made.__name__: made for made in (policy, cfc, ltc, spiking, slstm)
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        given, answered = MODULES[sys.argv[1]]()
    arrays: dict[str, Any] = {f"input/{name}": np.asarray(x) for name, x in given.items()}
    arrays |= {f"output/{name}": np.asarray(y) for name, y in answered.items()}
    np.savez(f"{sys.argv[1]}.npz", **arrays)
