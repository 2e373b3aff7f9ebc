"""Lower precision: what it does to a served graph, and how large a difference it may cost.

float16 halves weights and states; it is for CUDA: on a CPU onnxruntime casts to float32 and back. The scalers of inputs
and outputs stay in float32, whose range raw units need; a value that is beyond float16's range even so becomes NaN, so
that the service refuses the step instead of answering something wrong. int8 quantises
weights beforehand and activations at run time: their scale is taken over the whole run, so a row of large values would
change another's output. An int8 graph therefore runs one row at a time.
"""

import enum
import logging
import tempfile
import warnings
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from export.errors import ExportError
from export.graphs import all_graphs
from export.scalers import cut_scalers
from export.sentences import foreign_error
from export.transposes import guard_transposes
from export.verify import TOLERANCE
from models.card import ModelCard


class Precision(enum.Enum):
    """What weights and states are held in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


TOLERANCES = {Precision.FLOAT32: TOLERANCE, Precision.FLOAT16: 5e-3, Precision.INT8: 5e-2}
"""The largest difference from float32 that is allowed, of the spread, unless the user gives another."""

_QUANTISED = ("LSTM", "MatMul", "Gemm")


class PrecisionError(ExportError):
    """The model cannot be held in this precision."""


def parse_precision(dtype: str, quantize: str) -> Precision:
    """Return the precision that two options ask for.

    Raises:
        PrecisionError: They name no known precision, or contradict each other.
    """
    if dtype not in ("float32", "float16"):
        raise PrecisionError(f"--dtype {dtype}: expected float32 or float16")
    if quantize not in ("", "int8"):
        raise PrecisionError(f"--quantize {quantize}: expected int8")
    if quantize and dtype != "float32":
        raise PrecisionError("--quantize int8 starts from float32: leave --dtype away")
    return Precision(quantize or dtype)


def lower_precision(model: ModelProto, card: ModelCard, precision: Precision) -> tuple[ModelProto, ModelCard]:
    """Return a served graph and its card in another precision; what clients send and get keeps its dtype.

    Raises:
        PrecisionError: Nothing in the graph can be held in it.
    """
    before = model.ByteSize()
    if precision is Precision.FLOAT16:
        lowered = _float16(model, card)
        states = tuple(
            state.model_copy(update={"dtype": "float16"}) if state.dtype == "float32" else state
            for state in card.states
        )
        card = card.model_copy(update={"states": states})
    else:
        lowered = _int8(model)
        card = card.model_copy(update={"max_batch": 1})
        if lowered.ByteSize() >= before:
            after = lowered.ByteSize()
            raise PrecisionError(
                f"int8 would save nothing: {before:,} bytes become {after:,} (weights are small, or in nodes like "
                "GRU and RNN, of which onnxruntime has no int8 form)"
            )
    config = card.config | {"precision": precision.value, "bytes_in_float32": before, "bytes": lowered.ByteSize()}
    return lowered, card.model_copy(update={"config": config})


def _float16(model: ModelProto, card: ModelCard) -> ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if not any(
        tensor.data_type == TensorProto.FLOAT for graph in all_graphs(model.graph) for tensor in graph.initializer
    ):
        raise PrecisionError("no weight of the graph is float32: there is nothing to hold in float16")
    copy = ModelProto()
    copy.CopyFrom(model)
    scalers = cut_scalers(copy, card)
    kept = [*scalers.inputs, *scalers.outputs]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that tiny weights become zero: the comparison says whether it matters
            converted: ModelProto = convert_float_to_float16(copy, keep_io_types=kept, disable_shape_infer=False)
    except Exception as exc:  # the converter raises many types
        raise PrecisionError(f"the graph cannot be converted to float16: {foreign_error(exc)}") from exc
    scalers.join(converted)
    _keep_casts_off_arenas(converted)
    return guard_transposes(converted)


def _keep_casts_off_arenas(model: ModelProto) -> None:
    """Put a Max of one value, which changes nothing, after each Gather from an arena of float16.

    Where the next node has no float16 kernel, as LSTM on a CPU, onnxruntime would compute the Gather in float32 too
    and so cast the whole arena at every step. It does not change a Gather whose reader has a float16 kernel.
    """
    halves = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0].startswith("arena.") and node.input[0] in halves:
            rows = node.output[0]
            node.output[0] = f"{rows}/stored"
            nodes.append(helper.make_node("Max", [f"{rows}/stored"], [rows]))
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _int8(model: ModelProto) -> ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="cellstream-") as folder:
        path = Path(folder) / "int8.onnx"
        copy = ModelProto()
        copy.CopyFrom(model)
        try:
            logging.disable(logging.WARNING)  # advice on how the graph should have been prepared
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # 7 bits of the 8: sums of products saturate on processors without VNNI, and y is then anything
                kinds = list(_QUANTISED)
                quantize_dynamic(copy, path, kinds, reduce_range=True, weight_type=QuantType.QInt8)
            quantised = onnx.load(path)
        except Exception as exc:  # the quantiser raises many types
            raise PrecisionError(f"the graph cannot be quantised: {foreign_error(exc)}") from exc
        finally:
            logging.disable(logging.NOTSET)
    types = {tensor.data_type for tensor in quantised.graph.initializer}
    if not types & {TensorProto.INT8, TensorProto.UINT8}:
        raise PrecisionError(
            f"nothing in the graph can be quantised: only {', '.join(_QUANTISED)} with weights of their own can, and "
            "not inside a Scan, Loop or If"
        )
    return quantised
