"""The ONNX project's own cases for LSTM, GRU, RNN and Scan, on the onnxruntime that the export is verified with."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto
from onnx.backend.test.case import node
from onnx.backend.test.case.node import gru, lstm, rnn, scan
from onnx.backend.test.case.test_case import TestCase as Case

assert [gru, lstm, rnn, scan]  # importing them makes their cases

CASES: dict[str, Case] = {case.name: case for case in node._NodeTestCases}


def model_of(name: str) -> ModelProto:
    model = CASES[name].model
    assert model is not None
    return model


RECURRENT = [name for name in CASES if model_of(name).graph.node[0].op_type in ("LSTM", "GRU", "RNN", "Scan")]
BATCHWISE = [name for name in RECURRENT if name.endswith("_batchwise")]


def session_of(name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model_of(name).SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_the_cases_are_there() -> None:
    """Six cases each of the native nodes and four of Scan: none is lost unnoticed."""
    assert len(RECURRENT) == 22
    assert len(BATCHWISE) == 3


@pytest.mark.parametrize("name", [name for name in RECURRENT if name not in BATCHWISE])
def test_onnxruntime_gives_what_the_case_expects(name: str) -> None:
    """Rows of gates, peepholes, both directions, lengths and biases are read as the ONNX project reads them."""
    session = session_of(name)
    model = model_of(name)
    for inputs, outputs in CASES[name].data_sets or ():
        feeds = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
        # the scalar case declares another dtype than its data has
        kinds = {
            value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in model.graph.input
        }
        found = session.run(None, {key: np.asarray(value).astype(kinds[key]) for key, value in feeds.items()})
        for mine, expected in zip(found, outputs, strict=True):
            np.testing.assert_allclose(mine, np.asarray(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", BATCHWISE)
def test_batch_major_nodes_are_refused(name: str) -> None:
    """onnxruntime has no batch-major layout, which is why the exported graphs transpose."""
    with pytest.raises(Exception, match=r"(?i)layout"):
        session_of(name).run(None, {})
