"""Graphs whose load would end the process are written differently, and compute the same."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper, parser

from export.transposes import guard_transposes

ROWS = np.random.default_rng(0).normal(size=(4, 3, 5))


def graph(text: str, dtype: str = "float16", given: str = "float16", functions: str = "") -> ModelProto:
    """Return a graph of x [a, b, 5], and of a weight w [5, 2] in `dtype`."""
    model: ModelProto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
        f"net ({given}[a,b,5] x) => ({dtype.replace('float32', 'float')}[b,a,2] y) {{ {text} }}\n{functions}"
    )
    weight = np.linspace(-1, 1, 10).reshape(5, 2).astype(dtype)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


GRAPHS = {
    "transposed": graph("t = Transpose <perm = [1, 0, 2]> (x)  y = MatMul (t, w)"),
    "through nodes that are taken out": graph(
        "t = Transpose <perm = [1, 0, 2]> (x)  i = Identity (t)  d = Dropout (i)  y = MatMul (d, w)"
    ),
    "cast from double": graph(
        "t = Transpose <perm = [1, 0, 2]> (x)  c = Cast <to = 1> (t)  i = Identity (c)  y = MatMul (i, w)",
        "float32",
        "double",
    ),
    "in a branch": graph(
        """yes = Constant <value = bool {1}> ()  n = Not (yes)
        y = If (n) <then_branch = one () => (float16[b,a,2] p)
              { t = Transpose <perm = [1, 0, 2]> (x)  p = MatMul (t, w) },
            else_branch = two () => (float16[b,a,2] q)
              { s = Transpose <perm = [1, 0, 2]> (x)  q = MatMul (s, w) }>"""
    ),
    "in a function": graph(
        "y = local.turned (x, w)",
        functions="""<domain: "local", opset_import: ["" : 17]>
        turned (x, w) => (y) { t = Transpose <perm = [1, 0, 2]> (x)  y = MatMul (t, w) }""",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_transpose_before_a_matmul_is_held(name: str) -> None:
    """Each graph loads with every optimiser on and computes what it did without any."""
    model = GRAPHS[name]
    dtype = np.float64 if name == "cast from double" else np.float16
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = {"x": ROWS.astype(dtype)}
    held = guard_transposes(model)
    assert held is not model
    [expected], [found] = (
        ort.InferenceSession(one.SerializeToString(), options, providers=["CPUExecutionProvider"]).run([], feed)
        for one, options in ((model, plain), (held, ort.SessionOptions()))
    )
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3)


def test_what_is_held_already_stays() -> None:
    """A second time, nothing is put in."""
    held = guard_transposes(GRAPHS["transposed"])
    assert guard_transposes(held) is held


@pytest.mark.parametrize(
    ("text", "dtype"),
    [("t = Transpose <perm = [1, 0, 2]> (x)  y = MatMul (t, w)", "float32"), ("y = MatMul (x, w)", "float16")],
)
def test_other_graphs_stay_as_they_are(text: str, dtype: str) -> None:
    """float32 without casts, and float16 without a Transpose, are returned unchanged."""
    model = graph(text, dtype, dtype.replace("float32", "float"))
    assert guard_transposes(model) is model
