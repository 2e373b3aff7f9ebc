"""Files with false sizes, paths outside themselves or something other than a model: each is refused, none is loaded."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from export.__main__ import app
from export.artefact import artefact_bytes
from models.card import ModelCard, Parity, StateSpec, TensorSpec, seal, seal_placeholder
from service.errors import ArtefactRefused
from service.repository.artefact import open_artefact
from tests.export.zoo import ZOO

Evil = tuple[str, Callable[[Path], object]]
"""A name, and what puts the file `model.onnx` and all around it into a folder."""

LOCATIONS = (
    "../secret",
    "../../etc/passwd",
    "sub/../../secret",
    "./secret",
    "sub/secret",
    "/etc/passwd",
    "/proc/self/mem",
    "/dev/zero",
    "..",
    ".",
    "",
    "missing",
    "symlink",
    "symlink_to_folder",
    "hardlink",
    "fifo",
    "folder",
    "C:\\secret",
    "\\\\host\\share",
    "*/_ORT_MEM_ADDR_/*",
    "secret\0.bin",
    "http://127.0.0.1/secret",
    "file:///etc/passwd",
)
PARTS = ("initialiser", "constant", "branch", "sparse", "function")


def base() -> ModelProto:
    return ZOO["the_state_is_the_output"].model()


def external(location: str, **more: str) -> TensorProto:
    tensor = TensorProto(name="unsafe", data_type=TensorProto.FLOAT, dims=[4, 5], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def put(model: ModelProto, tensor: TensorProto, part: str) -> ModelProto:
    """Hide a tensor somewhere in a model."""
    constant = helper.make_node("Constant", [], ["unsafe_out"])
    constant.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=tensor))
    if part == "initialiser":
        model.graph.initializer.append(tensor)
    elif part == "constant":
        model.graph.node.append(constant)
    elif part == "branch":
        inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("unsafe_out", 1, None)])
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner))
    elif part == "sparse":
        sparse = model.graph.sparse_initializer.add(dims=[40])
        sparse.values.CopyFrom(tensor)
    else:
        function = helper.make_function(
            "local", "unsafe", [], ["unsafe_out"], [constant], [helper.make_opsetid("", 17)]
        )
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("local", 1))
        model.graph.node.append(helper.make_node("unsafe", [], ["from_function"], domain="local"))
    return model


def surroundings(folder: Path) -> None:
    """Make the files that unsafe locations point to."""
    secret = folder.parent / "secret"
    secret.write_bytes(bytes(80))
    (folder / "symlink").symlink_to(secret)
    (folder / "symlink_to_folder").symlink_to(folder.parent)
    os.link(secret, folder / "hardlink")
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "sub").mkdir()
    (folder / "sub/secret").write_bytes(bytes(80))
    (folder / "short").write_bytes(bytes(10))
    (folder / "exact").write_bytes(bytes(80))


def written(make: Callable[[], ModelProto]) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.onnx").write_bytes(make().SerializeToString())


def raw(data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.onnx").write_bytes(data)


def with_tensor(tensor: TensorProto, part: str = "initialiser") -> Callable[[Path], object]:
    return written(lambda: put(base(), tensor, part))


def with_node(node: NodeProto, domain: str = "") -> Callable[[Path], object]:
    def make() -> ModelProto:
        model = base()
        model.graph.node.append(node)
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))
        return model

    return written(make)


def unsafe_files() -> Iterator[Evil]:
    """Yield every unsafe file."""
    for location in LOCATIONS:
        for part in PARTS:
            yield f"external {part} {location!r}", with_tensor(external(location), part)
    for more in ({"offset": "-4"}, {"offset": "8"}, {"length": "81"}, {"offset": "x"}, {"length": "-1"}):
        yield f"external beside, {more}", with_tensor(external("exact", **more))
        yield f"external beside, {more}, 2**62", with_tensor(external("exact", **{key: str(2**62) for key in more}))
    yield "external too short", with_tensor(external("short"))
    marked = TensorProto(name="unsafe", data_type=1, dims=[4, 5], raw_data=bytes(80))
    marked.external_data.add(key="location", value="missing")
    yield "external data without saying so", with_tensor(marked)

    whole = base().SerializeToString()
    for count in range(40):
        yield f"truncated to {count}/40", raw(whole[: len(whole) * count // 40])
    random = np.random.default_rng(1)
    for size in (1, 10, 100, 1_000, 10_000, 100_000):
        yield f"{size} random bytes", raw(random.bytes(size))
    yield "a zip", raw(b"PK\x03\x04" + bytes(200))
    yield "a pickle", raw(b"\x80\x04\x95" + bytes(200))
    yield "text", raw(b"#!/bin/sh\nrm -rf /\n")
    yield "zeros", raw(bytes(1_000))
    yield "a folder", lambda folder: (folder / "model.onnx").mkdir()
    yield "a fifo", lambda folder: os.mkfifo(folder / "model.onnx")
    yield "nothing", lambda folder: None
    yield "larger than a model can be", oversize

    for op in ("Exec", "System", "Evil", "LSTMM", "add", "PythonOp", "Aten"):
        for domain in (
            "",
            "unsafe",
            "ai.onnx.contrib",
            "org.pytorch.aten",
            "com.microsoft",
            "com.microsoft.extensions",
        ):
            node = helper.make_node(op, ["x"], ["unsafe_out"], domain=domain)
            yield f"operator {domain}.{op}", with_node(node, domain)
    for dims in ([2**40], [-1], [2**31, 2**31], [2**62, 4], [3], [4, 5, 6], [0, 7]):
        lying = TensorProto(name="unsafe", data_type=1, dims=dims, raw_data=bytes(80))
        yield f"80 bytes for {dims}", with_tensor(lying)
        yield f"no bytes for {dims}", with_tensor(TensorProto(name="unsafe", data_type=1, dims=[d or 5 for d in dims]))
    yield "an unknown type", with_tensor(TensorProto(name="unsafe", data_type=99, dims=[1], raw_data=b"1"))
    for dtype in (np.float16, np.float32, np.float64):
        for part in PARTS:
            bad = numpy_helper.from_array(np.array([1, np.nan, 2], dtype), "unsafe")
            yield f"NaN {dtype.__name__} {part}", with_tensor(bad, part)
    yield "a function that calls itself", written(lambda: recursive("a", {"a": "a"}))
    yield "functions that call each other", written(lambda: recursive("a", {"a": "b", "b": "a"}))
    for version in (0, 99, 2**40):
        yield f"opset {version}", written(lambda version=version: with_opset(version))  # type: ignore[misc]


def oversize(folder: Path) -> None:
    with (folder / "model.onnx").open("wb") as file:
        file.truncate(2**31 + 1)  # a hole: nothing is written


def recursive(first: str, calls: dict[str, str]) -> ModelProto:
    model = base()
    model.opset_import.append(helper.make_opsetid("local", 1))
    for name, called in calls.items():
        node = helper.make_node(called, ["a"], ["b"], domain="local")
        model.functions.append(
            helper.make_function("local", name, ["a"], ["b"], [node], [helper.make_opsetid("local", 1)])
        )
    model.graph.node.append(helper.make_node(first, ["x"], ["unsafe_out"], domain="local"))
    return model


def with_opset(version: int) -> ModelProto:
    model = base()
    model.opset_import[0].version = version
    return model


@pytest.mark.slow
def test_no_unsafe_file_is_adopted(tmp_path: Path) -> None:
    """Each of more than 200 unsafe files is refused with status 1 and one sentence, and nothing is written."""
    runner, count = CliRunner(), 0
    for count, (name, make) in enumerate(unsafe_files(), start=1):
        folder = tmp_path / str(count) / "files"
        folder.mkdir(parents=True)
        surroundings(folder)
        make(folder)
        out = tmp_path / str(count) / "out"
        result = runner.invoke(app, ["adopt", str(folder / "model.onnx"), "--out", str(out / "unsafe/1")])
        assert result.exit_code == 1, f"{name}: {result.output} {result.exception}"
        assert result.stderr.startswith("not adopted: "), name
        assert result.stderr.count("\n") == 1, f"{name}: {result.stderr}"
        assert not out.exists(), name
    assert count >= 200


def test_the_same_model_without_the_unsafe_is_adopted(tmp_path: Path) -> None:
    """What all those files are made from is a model that can be adopted."""
    (tmp_path / "model.onnx").write_bytes(base().SerializeToString())
    result = CliRunner().invoke(app, ["adopt", str(tmp_path / "model.onnx"), "--out", str(tmp_path / "out/good/1")])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("part", PARTS)
def test_the_service_refuses_external_data(part: str, tmp_path: Path) -> None:
    """An artefact with a valid card and checksum that reaches outside itself is refused before onnxruntime sees it."""
    surroundings_folder = tmp_path / "files"
    surroundings_folder.mkdir()
    surroundings(surroundings_folder)
    card = ModelCard(
        name="unsafe",
        version=1,
        cell="adopted",
        inputs=(TensorSpec(name="x", shape=(4,)),),
        outputs=(TensorSpec(name="y", shape=(5,)),),
        states=(StateSpec(name="h", shape=(5,)),),
        weights_sha256="0" * 64,
        parity=Parity(tolerance=1.0, errors={}),
        created_by="a test",
    )
    for number, location in enumerate((*LOCATIONS, "exact")):
        file = surroundings_folder / f"{number}.onnx"
        file.write_bytes(artefact_bytes(put(base(), external(location), part), card))
        with pytest.raises(ArtefactRefused, match="outside the file"):
            open_artefact(file)


def test_the_service_refuses_what_is_no_model(tmp_path: Path) -> None:
    """Sealed bytes that are no protobuf message, and files larger than a model can be, are refused."""
    file = tmp_path / "model.onnx"
    mark = seal_placeholder().encode()
    for data in (b"\xff" * 50 + mark, mark, b"\x3a\x7f" + mark, b"\x3b" + mark):
        file.write_bytes(seal(data))
        with pytest.raises(ArtefactRefused):
            open_artefact(file)
    with file.open("wb") as hole:
        hole.truncate(2**31 + 1)
    with pytest.raises(ArtefactRefused, match="larger than"):
        open_artefact(file)
