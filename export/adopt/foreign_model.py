"""A foreign model, unchanged: its inputs and outputs, and onnxruntime to run it directly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, ValueInfoProto

from export.adopt.errors import NotServableError
from export.adopt.plan import DTYPES
from export.figure import Array
from export.onnx_session import single_threaded
from export.sentences import foreign_error

Dim = int | str
"""A fixed size, or the name of one that is not fixed; sizes without a name are given one."""


COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


class RunFailedError(Exception):
    """onnxruntime did not run the model on these tensors."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the file declares it."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """Return the axes of no fixed size."""
        return tuple(axis for axis, dim in enumerate(self.dims) if isinstance(dim, str))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(str(dim).removeprefix('?:') for dim in self.dims)}]"


class ForeignModel:
    """The original file: its inputs and outputs, and a session that runs it.

    Inputs that have a default value in the file are left out. Without `optimised` its nodes are run as they stand: some
    that onnxruntime joins do not run on the sizes on which they do apart.
    """

    def __init__(self, model: ModelProto, *, optimised: bool = True) -> None:
        defaults = {tensor.name for tensor in model.graph.initializer}
        self.model = model
        self.inputs = {i.name: port_of(i, "input") for i in model.graph.input if i.name not in defaults}
        self.outputs = {o.name: port_of(o, "output") for o in model.graph.output}
        try:
            self._session = single_threaded(
                model.SerializeToString(),
                optimised=optimised,
                without=["MatmulTransposeFusion"],  # it can end the process: see export.transposes
            )
        except Exception as exc:  # onnxruntime raises many types of its own
            raise NotServableError(f"onnxruntime cannot load the model: {foreign_error(exc)}") from exc

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the original once.

        Raises:
            RunFailedError: It does not run on these tensors.
        """
        names = list(self.outputs) if fetches is None else list(fetches)
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as exc:  # onnxruntime raises many types of its own
            raise RunFailedError(foreign_error(exc)) from exc
        return dict(zip(names, values, strict=True))


def port_of(value: ValueInfoProto, what: str) -> Port:
    """Return an input or output as it is declared; `what` says which of the two, for the error.

    Raises:
        NotServableError: It is no tensor, or of a type or shape that cannot be served.
    """
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise NotServableError(f"the {what} {value.name!r} is no tensor but a {str(kind).removesuffix('_type')}")
    tensor = value.type.tensor_type
    if tensor.elem_type in COMPLEX:
        raise NotServableError(
            f"the {what} {value.name!r} holds complex numbers, which cannot be served: let the graph take and give "
            "their real and imaginary parts as two float32 tensors, or as one more axis of size 2"
        )
    if tensor.elem_type not in DTYPES:
        raise NotServableError(
            f"the {what} {value.name!r} is of a type that cannot be served: only {', '.join(DTYPES.values())} can"
        )
    if what == "input" and not tensor.HasField("shape"):
        raise NotServableError(f"the input {value.name!r} does not say how many axes it has")
    dims: list[Dim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        fixed = dim.dim_value if dim.WhichOneof("value") == "dim_value" else -1
        if fixed == 0:
            raise NotServableError(f"the {what} {value.name!r} has an axis of size 0")
        dims.append(fixed if fixed > 0 else dim.dim_param or f"?:{value.name}:{axis}")
    return Port(value.name, DTYPES[tensor.elem_type], tuple(dims))
