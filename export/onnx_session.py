"""Sessions of onnxruntime on one thread of the CPU, in which models are analysed and compared."""

from collections.abc import Sequence

import onnxruntime as ort

FATAL = 4
"""onnxruntime's log severity with which nothing but the end of the process is logged."""


def single_threaded(
    model: bytes, *, optimised: bool = True, without: Sequence[str] = (), log_severity: int = FATAL
) -> ort.InferenceSession:
    """Return a session of a model; `without` names optimisations that are left out.

    Raises:
        Exception: onnxruntime does not load the model; it raises many types of its own.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = log_severity
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without) or None
    )
