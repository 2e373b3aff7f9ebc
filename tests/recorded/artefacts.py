"""Networks that give the same numbers on every CPU: small weights that are powers of two, and no transcendental."""

from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import parser

from export import ExportOptions, export_network
from export.adopt import adopt_model
from models.network import Network, NetworkConfig

_HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

_MIXED = """net (float[batch,2] audio, float[batch,1] gain, int64[batch] token, float[batch,2] state)
    => (float[batch,2] y, float[batch] level, float[batch,2] new_state)
<float[4,2] table = {0, 1, 2, 3, 4, 5, 6, 7}>
{ e = Gather (table, token)
  s = Mul (audio, gain)
  a = Add (s, e)
  new_state = Add (a, state)
  y = Neg (new_state)
  level = ReduceMax <axes = [1], keepdims = 0> (new_state) }"""

_KINDS = """net (double[batch,2] x, int32[batch] count, bool[batch,2] seen, double[batch,2] state)
    => (double[batch,2] y, int64[batch] twice, bool[batch] many, double[batch,2] new_state)
{ last = Constant <value = int64[1] {1}> ()
  two = Constant <value = int32 {2}> ()
  f = Cast <to = 11> (count)
  c = Unsqueeze (f, last)
  b = Cast <to = 11> (seen)
  xc = Add (x, c)
  xcb = Add (xc, b)
  new_state = Add (xcb, state)
  y = Neg (new_state)
  doubled = Mul (count, two)
  twice = Cast <to = 7> (doubled)
  many = Greater (count, two) }"""

_HALF = """net (float16[batch,2] x, float16[batch,2] h) => (float16[batch,2] y, float16[batch,2] h_out)
{ h_out = Add (x, h)
  y = Neg (h_out) }"""

_STATELESS = """net (float[batch,2] x) => (float[batch,3] y)
<float[2,3] weights = {1, 0, 0.5, 0, 2, 1}>
{ y = MatMul (x, weights) }"""

ADOPTED = {"mixed": _MIXED, "kinds": _KINDS, "half": _HALF, "stateless": _STATELESS}
"""Models given as ONNX graphs: several inputs and outputs, other datatypes, no state."""


def _sum(recurrent: float = 1.0) -> Network:
    """Return y = state = relu(recurrent · state + x)."""
    network = Network(NetworkConfig(cell="rnn_relu", input_size=1, hidden_size=1, output_size=1))
    return _filled(
        network, {"stack.layers.0.gates.W": [[1]], "stack.layers.0.gates.R": [[recurrent]], "head.weight": [[1]]}
    )


def _pair() -> Network:
    """Return a network of two features whose state's elements change places at every step."""
    names = ("left", "right")
    network = Network(
        NetworkConfig(cell="rnn_relu", input_size=2, hidden_size=2, output_size=2, features=names, units=("V", "A"))
    )
    weights: dict[str, Any] = {
        "stack.layers.0.gates.W": [[1, 0.5], [0.25, 2]],
        "stack.layers.0.gates.R": [[0, 1], [1, 0]],
    }
    return _filled(network, weights | {"head.weight": [[1, 1], [1, -1]], "head.bias": [0.5, 0]})


def _tokens() -> Network:
    """Return a network that counts token ids."""
    network = Network(NetworkConfig(cell="rnn_relu", input_size=3, hidden_size=3, output_size=3, vocabulary=6))
    one = torch.eye(3).tolist()
    weights: dict[str, Any] = {"stack.layers.0.gates.W": one, "stack.layers.0.gates.R": one, "head.weight": one}
    return _filled(network, weights | {"embedding.weight": [*one, *one]})


def _whole() -> Network:
    """Return a network that reads whole sequences, from both ends."""
    network = Network(NetworkConfig(cell="rnn_relu", input_size=1, hidden_size=1, output_size=2, bidirectional=True))
    weights: dict[str, Any] = {
        f"stack.layers.0.{way}.gates.{name}": [[1]] for way in ("onward", "backward") for name in "WR"
    }
    return _filled(network, weights | {"head.weight": [[1, 0], [0, 1]]})


def _filled(network: Network, weights: dict[str, Any]) -> Network:
    """Return the network with these weights, and zero for all others."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.tensor(weights[name]) if name in weights else torch.zeros_like(parameter))
    return network.eval()


def export_all(folder: Path) -> Path:
    """Write every artefact under `folder`, a second version of `sum` under `folder`-next, and return `folder`."""
    for name, network in {
        "sum": _sum(),
        "pair": _pair(),
        "tokens": _tokens(),
        "whole": _whole(),
    }.items():
        export_network(network, folder, name, 1, ExportOptions(description=f"the network {name}"))
    for name, text in ADOPTED.items():
        file = folder.parent / f"{name}.onnx"
        onnx.save(parser.parse_model(_HEAD + text), file)
        adopt_model(file, folder, name, 1)
    export_network(_sum(0.5), folder.parent / f"{folder.name}-next", "sum", 2)
    export_network(_pair(), folder.parent / f"{folder.name}-next", "sum", 3)
    return folder
