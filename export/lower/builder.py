"""An ONNX graph under construction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor

ELEMENT_TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}

Dim = str | int


class GraphBuilder:
    """Collect inputs, initialisers, nodes and outputs as they are added.

    Every value's name is unique in the graph and in all graphs inside it; names that nothing outside reads are made
    here.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._constants_of: GraphBuilder = self
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._initialisers: dict[str, TensorProto] = {}
        self._nodes: list[NodeProto] = []
        self._counts: dict[str, int] = {}

    def inner(self, name: str, *, own_constants: bool) -> "GraphBuilder":
        """Return a graph for the attribute of one of this graph's nodes; it may read all values of this one.

        Without constants of its own it keeps them here.
        """
        child = GraphBuilder(name)
        child._counts = self._counts
        if not own_constants:
            child._constants_of = self._constants_of
        return child

    def input(self, name: str, dtype: str, shape: Sequence[Dim]) -> str:
        """Declare an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[Dim]) -> str:
        """Declare that the value of this name is an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape))
        return name

    def constant(self, value: npt.ArrayLike | Tensor, dtype: npt.DTypeLike = np.float32, hint: str = "const") -> str:
        """Add a constant to the graph; equal values are stored once.

        An array keeps its shape, that of a scalar too; a plain number becomes an array of one value.
        """
        given = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        array = np.asarray(given, dtype=dtype, order="C")
        if not isinstance(given, np.ndarray):
            array = np.atleast_1d(array)
        constants = self._constants_of._initialisers
        for name, tensor in constants.items():
            if _same(tensor, array):
                return name
        name = self.fresh(hint)
        constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, op: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name, a fresh one unless given."""
        name = self.fresh(op.lower()) if output is None else output
        self.nodes(op, inputs, [name], **attributes)
        return name

    def nodes(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Add a node with several outputs; an empty name leaves out an optional input or output."""
        self._nodes.append(helper.make_node(op, inputs, outputs, name=self.fresh(op), **attributes))

    def fresh(self, hint: str) -> str:
        """Return a name that nothing in the graph has."""
        count = self._counts.get(hint, 0)
        self._counts[hint] = count + 1
        return f"{hint}_{count}"

    def build(self) -> GraphProto:
        """Return the graph."""
        return helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, initializer=list(self._initialisers.values())
        )


def _same(tensor: TensorProto, array: npt.NDArray[Any]) -> bool:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return tensor.data_type == kind and tuple(tensor.dims) == array.shape and tensor.raw_data == array.tobytes()
