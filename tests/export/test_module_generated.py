# mypy: disable-error-code="no-any-return"
"""Modules generated around recurrent layers are exported as they compute, or refused in one sentence."""

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export.errors import ExportError
from tests.export.served_module import Exported, export, inventory

WIDTH, IDS = 5, 7
STEP_SHAPES: dict[str, tuple[str, int]] = {
    "features": ("x4", 4),
    "wide": ("x1", 1),
    "number": ("", 1),
    "id": (f":int64:{IDS}", 3),
    "flag": (":bool", 1),
    "matrix": ("x2x3", 6),
    "image": ("x1x2x2", 4),
}
"""Kind of step → what stands behind BATCHxTIME in its example, and the features that are made of it."""


class HC(NamedTuple):
    """A state with names."""

    h: Tensor
    c: Tensor


@dataclass(frozen=True)
class Spec:
    """How a module is written; `fault` is something in it that may keep it from being exported."""

    core: str
    layers: int
    batch_first: bool
    one_step: bool
    step: str
    takes: str
    gives: str
    start: str
    training: str
    fault: str


SPECS = st.builds(
    Spec,
    core=st.sampled_from(["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell"]),
    layers=st.sampled_from([1, 1, 2]),
    batch_first=st.sampled_from([True, True, False]),
    one_step=st.sampled_from([False, False, True]),
    step=st.sampled_from(list(STEP_SHAPES)),
    takes=st.sampled_from(["nothing", "optional", "required", "apart", "keyword", "before", "after_option", "spread"]),
    gives=st.sampled_from(["y", "last", "first", "flat", "dict", "named", "list"]),
    start=st.sampled_from(["zeros", "zeros", "learned", "from_input"]),
    training=st.sampled_from(["none", "dropout", "batch_norm"]),
    fault=st.sampled_from(
        ["none"] * 6 + ["looks_ahead", "mean", "stale", "swapped", "noise", "kept", "in_place", "half", "one_row"]
    ),
)


class Generated(nn.Module):
    """A recurrent core with any signature: subclasses give `forward` its arguments."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        features = STEP_SHAPES[spec.step][1]
        self.table = nn.Embedding(IDS, features)
        if spec.core.endswith("Cell"):
            self.core: Any = getattr(nn, spec.core)(features, WIDTH)
        else:
            self.core = getattr(nn, spec.core)(features, WIDTH, spec.layers, batch_first=spec.batch_first)
        self.h0, self.c0, self.bias = (nn.Parameter(torch.randn(WIDTH)) for _ in range(3))
        self.middle: nn.Module = nn.Identity()
        if spec.training == "dropout":
            self.middle = nn.Dropout(0.5)
        if spec.training == "batch_norm":
            self.middle = nn.BatchNorm1d(WIDTH)
        self.kept = torch.zeros(1)

    @property
    def has_pair(self) -> bool:
        return self.spec.core.startswith("LSTM")

    def begin(self, rows: int, features: Tensor) -> tuple[Tensor, ...]:
        """Return the state before the first step: (rows, WIDTH) of a cell, (layers, rows, WIDTH) of a layer."""
        spec = self.spec
        states = []
        for learned in (self.h0, self.c0)[: 2 if self.has_pair else 1]:
            row = torch.zeros(rows, WIDTH)
            if spec.start == "learned":
                row = torch.tanh(learned).expand(rows, WIDTH)
            if spec.start == "from_input":
                row = features.reshape(rows, -1)[:, :1].expand(rows, WIDTH)
            states.append(row.clone() if spec.core.endswith("Cell") else torch.stack([row] * spec.layers))
        return tuple(states)

    def features(self, x: Tensor) -> Tensor:
        """Return (rows, time, features) of an input with its time axis."""
        if self.spec.step == "id":
            return self.table(x)
        return x.float().reshape(x.shape[0], x.shape[1], -1)

    def compute(self, x: Tensor, states: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run some steps: y (rows, time, WIDTH), and the states after them."""
        spec = self.spec
        features = self.features(x.unsqueeze(1) if spec.one_step else x)
        if spec.fault == "one_row":
            features = features[:1].expand_as(features)
        if spec.fault == "looks_ahead":
            features = features + torch.roll(features, -1, 1)
        if spec.fault == "mean":
            features = features - features.mean(1, keepdim=True)
        if spec.fault == "noise":
            features = features + 0.1 * torch.randn_like(features)
        states = self.begin(len(x), features) if states is None else states
        before = states
        if spec.fault == "in_place":
            states[0].mul_(0.5)
        if spec.core.endswith("Cell"):
            outputs = []
            for step in features.unbind(1):
                found = self.core(step, states if self.has_pair else states[0])
                states = tuple(found) if self.has_pair else (found,)
                outputs.append(states[0])
            y = torch.stack(outputs, 1)
        else:
            given = states if self.has_pair else states[0]
            y, found = self.core(features if spec.batch_first else features.transpose(0, 1), given)
            y = y if spec.batch_first else y.transpose(0, 1)
            states = tuple(found) if self.has_pair else (found,)
        y = self.middle(y.flatten(0, 1)).reshape(y.shape) + self.bias
        if spec.fault == "kept":
            y = y + self.kept
            self.kept = self.kept + 1
        if spec.fault == "stale":
            states = before
        if spec.fault == "swapped" and self.has_pair and not spec.one_step:
            states = states[::-1]
        if spec.fault == "half" and len(states) == 2:
            states = (states[0], torch.zeros_like(states[1]))
        return (y[:, 0] if spec.one_step else y), states

    def answer(self, x: Tensor, state: Any) -> Any:
        """Run some steps from a state of the kind that is returned, or from None."""
        y, states = self.compute(x, None if state is None else tuple(state) if self.has_pair else (state,))
        made: Any = HC(*states) if self.spec.gives == "named" and self.has_pair else states
        made = made if self.has_pair else states[0]
        match self.spec.gives:
            case "y":
                return y
            case "first":
                return made, y
            case "flat":
                return (y, *states)
            case "dict":
                return {"y": y, "state": made}
            case "list":
                return [y, list(states) if self.has_pair else made]
        return y, made

    def whole(self, x: Tensor) -> Tensor:
        """Return y (rows, time, WIDTH) as a user computes it: one call, or a loop over single steps."""
        if not self.spec.one_step:
            return self.compute(x, None)[0]
        states, outputs = None, []
        for step in x.unbind(1):
            y, states = self.compute(step, states)
            outputs.append(y)
        return torch.stack(outputs, 1)


class Nothing(Generated):
    def forward(self, x: Tensor) -> Any:
        return self.answer(x, None)


class Optional(Generated):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self.answer(x, state)


class Required(Generated):
    def forward(self, x: Tensor, hidden: Any) -> Any:
        return self.answer(x, hidden)


class Apart(Generated):
    def forward(self, x: Tensor, h: Any = None, c: Any = None) -> Any:
        return self.answer(x, None if h is None else (h, c) if self.has_pair else h)


class Keyword(Generated):
    def forward(self, x: Tensor, *, memory: Any = None) -> Any:
        return self.answer(x, memory)


class Before(Generated):
    def forward(self, state: Any, x: Tensor) -> Any:
        return self.answer(x, state)


class AfterOption(Generated):
    def forward(self, x: Tensor, scale: float = 1.0, initial_state: Any = None) -> Any:
        return self.answer(x, initial_state)


class Spread(Generated):
    def forward(self, x: Tensor, *state: Any) -> Any:
        return self.answer(x, None if not state else state if self.has_pair else state[0])


KINDS = {
    "nothing": Nothing,
    "optional": Optional,
    "required": Required,
    "apart": Apart,
    "keyword": Keyword,
    "before": Before,
    "after_option": AfterOption,
    "spread": Spread,
}


def check(spec: Spec, folder: Path) -> bool:
    """Check a generated module, and return whether it was exported."""
    torch.manual_seed(6)
    module = KINDS[spec.takes](spec).train()
    with torch.no_grad():
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    before = inventory(module)
    exported, refusal = exported_or_refused(module, folder)
    assert inventory(module) == before
    if exported is None:
        assert re.fullmatch(r".{20,}", refusal)
        return False
    assert_same(exported, module.eval())
    return True


def exported_or_refused(module: Generated, folder: Path) -> tuple[Exported | None, str]:
    example = f"1x{1 if module.spec.one_step else 6}{STEP_SHAPES[module.spec.step][0]}"
    try:
        return export(module, folder, example), ""
    except ExportError as exc:
        return None, str(exc)


def assert_same(exported: Exported, module: Generated) -> None:
    (x,) = exported.draw()
    with torch.no_grad():
        expected = module.whole(x).numpy()
    flat_first = module.spec.gives == "first"
    names = ["y", "y1" if flat_first else "y0"]
    found = exported.serve([x])
    name = next(name for name in names if name in found)
    assert found[name].shape == expected.shape
    assert np.abs(found[name] - expected).max() <= 2e-5


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(spec=SPECS)
def test_a_generated_module_is_exported_as_it_computes_or_refused(spec: Spec) -> None:
    """Whatever its signature, steps and faults, what is served equals the module, or one sentence says why not."""
    with TemporaryDirectory() as folder:
        check(spec, Path(folder))
