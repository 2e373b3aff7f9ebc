"""Read a foreign ONNX file: it must be complete and self-contained, with known operators and finite weights."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.adopt.errors import UnsafeFileError
from export.adopt.other_formats import name_other_format
from export.graphs import all_graphs, subgraphs

MAX_BYTES = 2**31 - 1
"""The most that a file and its tensors may hold: the limit of a protobuf message."""

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_RUNTIME = ("com.microsoft",)  # onnxruntime's own operators: it checks them when it loads the file


def read_foreign(path: Path) -> ModelProto:
    """Return the model of a file, its weights inside.

    Raises:
        UnsafeFileError: It is not an ONNX file, truncated or too large, keeps tensors in other files than plain ones
            beside it, uses operators that onnxruntime does not have, or holds NaN, infinite weights or settings.
    """
    data = _read_plain(path, path)
    if other := name_other_format(data):
        raise UnsafeFileError(path, f"it is {other}")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as exc:
        raise UnsafeFileError(path, "not a whole ONNX file: it is damaged, truncated or of another kind") from exc
    if not (model.ir_version and model.opset_import and model.graph.output):
        raise UnsafeFileError(path, "not an ONNX model: no graph with outputs and an opset stands in it")
    _check_operators(path, model)
    total = len(data)
    for where, tensor in _all_tensors(model):
        total += _embed(path, where, tensor)
        if total > MAX_BYTES:
            raise UnsafeFileError(path, f"its tensors together hold more than {MAX_BYTES:,} bytes")
        _check_tensor(path, where, tensor)
    _check_factors(path, model)
    _check_numbers(path, model)
    del model.training_info[:]
    return model


def _all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in all_graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for inner in subgraphs(node):
                for graph in all_graphs(inner):
                    yield from graph.node


def _graphs(model: ModelProto) -> list[GraphProto]:
    graphs = list(all_graphs(model.graph))
    graphs += [g for f in model.functions for node in f.node for inner in subgraphs(node) for g in all_graphs(inner)]
    return graphs


def _all_tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    for graph in _graphs(model):
        for tensor in graph.initializer:
            yield f"the weight {tensor.name!r}", tensor
        for sparse in graph.sparse_initializer:
            yield f"the weight {sparse.values.name!r}", sparse.values
            yield f"the indices of the weight {sparse.values.name!r}", sparse.indices
    for owner, _, attribute in _all_attributes(model):
        where = f"a constant of {owner}"
        if attribute.type == AttributeProto.TENSOR:
            yield where, attribute.t
        for tensor in attribute.tensors:
            yield where, tensor
        for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
            yield where, sparse.values
            yield where, sparse.indices


def _all_attributes(model: ModelProto) -> Iterator[tuple[str, str, AttributeProto]]:
    """Yield the owner's description, its operator, and the attribute; default attributes of functions are included."""
    for node in _all_nodes(model):
        for attribute in node.attribute:
            yield f"the node {node.name or ', '.join(node.output)!r}", node.op_type, attribute
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield f"the function {function.name!r}", function.name, attribute


def _check_operators(path: Path, model: ModelProto) -> None:
    functions = {(function.domain, function.name): function for function in model.functions}
    for node in _all_nodes(model):
        key = (node.domain, node.op_type)
        if key in functions or node.domain in _RUNTIME:
            continue
        if node.domain not in _STANDARD or not onnx.defs.has(node.op_type, node.domain.removeprefix("ai.onnx") or ""):
            domain = f"{node.domain}." if node.domain else ""
            raise UnsafeFileError(
                path, f"the node {node.name or node.output[:1]} is a {domain}{node.op_type}, which is no ONNX operator"
            )
    calls = {
        key: {(node.domain, node.op_type) for node in function.node} & functions.keys()
        for key, function in functions.items()
    }
    while calls:
        ready = [key for key, called in calls.items() if not called & calls.keys()]
        if not ready:
            raise UnsafeFileError(path, f"its function {next(iter(calls))[1]!r} calls itself")
        for key in ready:
            del calls[key]


def _embed(path: Path, where: str, tensor: TensorProto) -> int:
    """Load a tensor's data from the plain file beside the model that holds it; return the number of bytes."""
    if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
        return 0
    fields = {field.key: field.value for field in tensor.external_data}
    location = fields.get("location", "")
    if not location or location in (".", "..") or {"/", "\\", "\0"} & set(location):
        raise UnsafeFileError(path, f"{where} lies in another file, {location!r}, which is not beside the model")
    data = _read_plain(path.parent / location, path, f"{where} lies in {location!r}, which")
    try:
        start = int(fields.get("offset", "0"))
        length = int(fields.get("length", len(data) - start))
    except ValueError as exc:
        raise UnsafeFileError(path, f"{where} has an offset that is no number") from exc
    if start < 0 or length < 0 or start + length > len(data):
        raise UnsafeFileError(path, f"{where} should end at byte {start + length} of {location!r}, which is shorter")
    tensor.raw_data = data[start : start + length]
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    return length


def _check_tensor(path: Path, where: str, tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.STRING or not tensor.data_type:
        return
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        raise UnsafeFileError(
            path,
            f"{where} holds complex numbers, which onnxruntime does not compute: export their real and imaginary parts",
        )
    if any(dim < 0 for dim in tensor.dims):
        raise UnsafeFileError(path, f"{where} has a negative size")
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as exc:
        raise UnsafeFileError(path, f"{where} is of an unknown type {tensor.data_type}") from exc
    size = 1
    for dim in tensor.dims:
        size *= dim
    whole_bytes = dtype.kind in "fiubc" and dtype.itemsize * 8 >= 8 and "4" not in dtype.name[-2:-1]
    if tensor.raw_data and whole_bytes and dtype.isbuiltin == 1 and len(tensor.raw_data) != size * dtype.itemsize:
        raise UnsafeFileError(path, f"{where} has {len(tensor.raw_data)} bytes for {tuple(tensor.dims)} values")
    try:
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as exc:
        raise UnsafeFileError(path, f"{where} does not hold {tuple(tensor.dims)} values") from exc
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UnsafeFileError(path, f"{where} holds NaN")


_FACTORS = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Einsum": tuple(range(8)),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), (1, 2, 3, 5, 6, 7)),
}
"""Operator → inputs that hold its weights. Infinity there comes from a training that diverged; elsewhere, as in an
attention's mask or as the start value of a maximum, it has a meaning."""
_REARRANGING = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Concat", "Slice", "Split")


def _check_factors(path: Path, model: ModelProto) -> None:
    """Refuse infinity in the weights of a layer, also where they reach it transposed or concatenated."""
    nodes = list(_all_nodes(model))
    weights = {
        node.input[index]
        for node in nodes
        for index in _FACTORS.get(node.op_type, ())
        if not node.domain and index < len(node.input)
    }
    for node in reversed(nodes):
        if node.op_type in _REARRANGING and weights & set(node.output):
            weights |= set(node.input if node.op_type == "Concat" else node.input[:1])
    tensors = {tensor.name: tensor for graph in _graphs(model) for tensor in graph.initializer}
    tensors |= {
        node.output[0]: attribute.t
        for node in nodes
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.type == AttributeProto.TENSOR
    }
    for name in sorted(weights & tensors.keys()):
        values = numpy_helper.to_array(tensors[name])
        if values.dtype.kind == "f" and np.isinf(values).any():
            raise UnsafeFileError(path, f"the weight {name!r} holds infinity")


_BOUNDS = ("min", "max", "clip", "value", "mask_filter_value")
"""Attributes in which infinity has a meaning: there is no bound, or nothing is smaller."""


def _check_numbers(path: Path, model: ModelProto) -> None:
    """Refuse NaN in any attribute, and infinity where it is neither a bound nor a constant's value."""
    for owner, operator, attribute in _all_attributes(model):
        values = np.array([attribute.f, *attribute.floats])
        unbounded = operator == "Constant" or attribute.name in _BOUNDS
        for name, bad in (("NaN", np.isnan(values)), ("infinity", np.isinf(values) & (not unbounded))):
            if bad.any():
                raise UnsafeFileError(path, f"the attribute {attribute.name!r} of {owner} holds {name}")


def _read_plain(file: Path, model: Path, what: str = "it") -> bytes:
    """Return the bytes of a plain file, which must not be a link of any kind unless it is the model itself."""
    beside = file != model
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | (os.O_NOFOLLOW if beside else 0))
    except OSError as exc:
        raise UnsafeFileError(model, f"{what} cannot be read ({exc.strerror})") from exc
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):  # Python refuses it with a number and no name
        os.close(descriptor)
        raise UnsafeFileError(model, f"{what} is a folder, where a file is expected")
    with open(descriptor, "rb") as handle:
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeFileError(model, f"{what} is not a plain file")
        if beside and status.st_nlink > 1:
            raise UnsafeFileError(model, f"{what} is a hard link to a file that stands elsewhere too")
        if status.st_size > MAX_BYTES:
            raise UnsafeFileError(model, f"{what} has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
        return handle.read()
