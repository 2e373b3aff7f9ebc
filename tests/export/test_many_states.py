"""A file of 120 states is adopted in seconds."""

import time
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from tests.export.served import adopted, reference, streamed

LAYERS, WIDTH, STEPS = 60, 8, 10


def deep() -> ModelProto:
    """Return 60 LSTM layers, each added to what it reads, with h and c of each as inputs and outputs."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(np.array([1], np.int64), "one")]
    inputs = [helper.make_tensor_value_info("x", 1, ["batch", "time", WIDTH])]
    outputs = [helper.make_tensor_value_info("y", 1, ["batch", "time", WIDTH])]
    nodes = [helper.make_node("Transpose", ["x"], ["s0"], perm=[1, 0, 2])]
    for layer in range(LAYERS):
        for name, shape in (("W", (1, 4 * WIDTH, WIDTH)), ("R", (1, 4 * WIDTH, WIDTH)), ("B", (1, 8 * WIDTH))):
            values = random.normal(0, 0.3, shape).astype(np.float32)
            weights.append(numpy_helper.from_array(values, f"{name}{layer}"))
        for name in "hc":
            inputs.append(helper.make_tensor_value_info(f"{name}{layer}", 1, [1, "batch", WIDTH]))
            outputs.append(helper.make_tensor_value_info(f"{name}{layer}_next", 1, [1, "batch", WIDTH]))
        given = [f"s{layer}", f"W{layer}", f"R{layer}", f"B{layer}", "", f"h{layer}", f"c{layer}"]
        made = [f"y{layer}", f"h{layer}_next", f"c{layer}_next"]
        nodes += [
            helper.make_node("LSTM", given, made, hidden_size=WIDTH),
            helper.make_node("Squeeze", [f"y{layer}", "one"], [f"q{layer}"]),
            helper.make_node("Add", [f"q{layer}", f"s{layer}"], [f"s{layer + 1}"]),
        ]
    nodes.append(helper.make_node("Transpose", [f"s{LAYERS}"], ["y"], perm=[1, 0, 2]))
    graph = helper.make_graph(nodes, "deep", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("fixed", [False, True], ids=["open batch", "batch of 1"])
def test_a_file_of_120_states_is_adopted_in_a_minute(fixed: bool, tmp_path: Path) -> None:
    """All states are found and paired by name, and rows run together, also where the file is made for one."""
    model = deep()
    if fixed:
        for value in (*model.graph.input, *model.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_value = 1
    start = time.process_time()
    artefact, card, _ = adopted(model, tmp_path)
    assert time.process_time() - start < 60
    assert (len(card.states), card.max_batch) == (2 * LAYERS, 256)
    x = np.random.default_rng(1).normal(size=(STEPS, WIDTH)).astype(np.float32)
    zeros = {value.name: np.zeros((1, 1, WIDTH), np.float32) for value in model.graph.input[1:]}
    if fixed:
        expected = [reference(model, {"x": x[None, :1]} | zeros)["y"][0, 0]]
    else:
        expected = reference(model, {"x": x[None]} | zeros)["y"][0]
    found = streamed(artefact, {"x": x}, 1)["y"]
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5)
