import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from models.cells import CELLS
from models.network import CheckpointError, Network, NetworkConfig, Scaler


def make_network(cell: str = "lstm", **fields: Any) -> Network:
    torch.manual_seed(5)
    square = cell in CELLS and CELLS[cell].square
    sizes = {"input_size": 8 if square else 2, "hidden_size": 8, "output_size": 3, "num_layers": 2}
    return Network(NetworkConfig.model_validate({"cell": cell, **sizes, **fields})).eval()


def test_states_are_named_by_layer() -> None:
    """States are named by layer number, h before c, and have one row for each sequence."""
    network = make_network()
    _, state = network(torch.randn(4, 7, 2))
    assert list(state) == ["layer0.h", "layer0.c", "layer1.h", "layer1.c"]
    assert list(state) == [spec.name for spec in network.states]
    assert all(rows.shape == (4, 8) for rows in state.values())


@pytest.mark.parametrize("cell", CELLS)
def test_a_carried_state_continues_the_sequence(cell: str) -> None:
    """Two parts of a sequence, with the state carried over, give the outputs and state of the whole sequence."""
    network = make_network(cell)
    x = torch.randn(3, 10, network.config.input_size)
    whole, after = network(x)
    first, state = network(x[:, :4])
    second, state = network(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, after, atol=1e-6, rtol=1e-5)


def test_scalers_take_and_give_raw_units() -> None:
    """A network with scalers applies (x − mean) / std before, and y · std + mean after, the network without them."""
    scalers: dict[str, Any] = {
        "input_scaler": Scaler(mean=(10.0, -4.0), std=(2.0, 0.5)),
        "output_scaler": Scaler(mean=(100.0, 0.0, 1.0), std=(30.0, 1.0, 0.1)),
    }
    bare, scaled = make_network(), make_network(**scalers)
    x = torch.randn(2, 5, 2)
    raw = x * torch.tensor([2.0, 0.5]) + torch.tensor([10.0, -4.0])
    wanted = bare(x)[0] * torch.tensor([30.0, 1.0, 0.1]) + torch.tensor([100.0, 0.0, 1.0])
    torch.testing.assert_close(scaled(raw)[0], wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_saved_network_loads_unchanged(cell: str, tmp_path: Path) -> None:
    """Saving and loading keep the configuration, the digest of all weights and the outputs, bit for bit."""
    width = make_network(cell).config.input_size
    scaler = Scaler(mean=(1.0,) * width, std=(3.0,) * width)
    network = make_network(cell, input_scaler=scaler, features=[f"feature {k}" for k in range(width)])
    network.save(tmp_path / "network.safetensors")
    loaded = Network.load(tmp_path / "network.safetensors")
    x = torch.randn(2, 5, width)
    assert loaded.config == network.config
    assert loaded.weights_sha256() == network.weights_sha256()
    assert torch.equal(loaded(x)[0], network(x)[0])


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """The bytes of a checkpoint depend on the network alone."""
    network = make_network(cell_options={"forget_bias": 2.0})
    for name in ("a", "b"):
        network.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_token_ids_are_embedded() -> None:
    """A network with a vocabulary reads int64 ids without a feature axis."""
    network = make_network(vocabulary=11, output_size=11, feedback=True)
    y, _ = network(torch.randint(0, 11, (4, 6)))
    assert y.shape == (4, 6, 11)
    (spec,) = network.inputs
    assert (spec.dtype, spec.shape, spec.vocabulary) == ("int64", (), 11)


def test_the_digest_covers_weights_and_scalers() -> None:
    """One changed weight, or a scaler, changes the digest; equal networks have equal digests."""
    digests = {make_network().weights_sha256(), make_network().weights_sha256()}
    assert len(digests) == 1
    changed = make_network()
    with torch.no_grad():
        changed.head.bias[0] += 1e-3
    digests.add(changed.weights_sha256())
    digests.add(make_network(input_scaler=Scaler(mean=(0.0, 0.0), std=(1.0, 2.0))).weights_sha256())
    assert len(digests) == 3


def test_a_file_that_is_not_a_checkpoint_is_refused_with_the_reason(tmp_path: Path) -> None:
    """A file that is missing, truncated, inconsistent or of another format is refused with the reason."""
    path = tmp_path / "network.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        Network.load(path)
    path.write_bytes(b"not safetensors at all, but long enough to look like something")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        Network.load(path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"not one written by Network\.save"):
        Network.load(path)
    save_file({"w": torch.zeros(2)}, path, metadata={"cellstream.network": '{"cell": "none"}'})
    with pytest.raises(CheckpointError, match="configuration is not valid"):
        Network.load(path)
    save_file({"w": torch.zeros(2)}, path, metadata={"cellstream.network": make_network().config.model_dump_json()})
    with pytest.raises(CheckpointError, match="do not fit its configuration"):
        Network.load(path)
    make_network().save(path)
    whole = path.read_bytes()
    for cut in (4, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            Network.load(path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cell_options": {"input_size": 3}}, "cell_options.input_size: Extra inputs"),
        ({"cell_options": {"forget_bias": "much"}}, "cell_options.forget_bias: Input should be a valid number"),
        ({"cell_options": [3]}, "cell_options: Input should be a valid dictionary"),
        ({"hidden_size": 10**30}, "hidden_size: Input should be less than"),
        ({"hidden_size": 2**20}, "layers.0.gates.W has the shape .* and should be .4194304,"),
        ({"num_layers": 10**9}, "num_layers: Input should be less than"),
        ({"num_layers": 500}, "its weights do not fit its configuration: .* more$"),
        ({"vocabulary": 10**18}, "vocabulary: Input should be less than"),
        ({"vocabulary": 2**31 - 1, "input_size": 2**20}, "do not fit its configuration: embedding"),
    ],
)
def test_a_crafted_configuration_is_refused_before_it_takes_memory(
    fields: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    """Options and sizes that do not fit the weights in the file are refused with a message of one line."""
    network = make_network()
    config = json.loads(network.config.model_dump_json()) | fields
    path = tmp_path / "network.safetensors"
    save_file(network.state_dict(), path, metadata={"cellstream.network": json.dumps(config)})
    with pytest.raises(CheckpointError, match=sentence) as refused:
        Network.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, "{"], ids=["deep", "long", "cut"])
def test_a_configuration_that_is_not_json_is_refused(text: str, tmp_path: Path) -> None:
    """Text that is not a JSON object is refused as a configuration with a message that says so."""
    path = tmp_path / "network.safetensors"
    save_file(make_network().state_dict(), path, metadata={"cellstream.network": text})
    with pytest.raises(CheckpointError, match="not a JSON object"):
        Network.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    """A checkpoint with NaN or infinite weights is refused, even where its outputs might be finite."""
    network = make_network()
    with torch.no_grad():
        network.head.weight[0, 0] = value
    network.save(tmp_path / "network.safetensors")
    with pytest.raises(CheckpointError, match=r"'head\.weight' holds NaN or infinity"):
        Network.load(tmp_path / "network.safetensors")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cell": "lstmm"}, "no cell is called 'lstmm'; the cells are attention_lstm"),
        ({"cell_options": {"forget_bais": 1.0}}, "forget_bais"),
        ({"input_scaler": Scaler(mean=(0.0,), std=(1.0,))}, "the input scaler is for 1 features, the network has 2"),
        ({"vocabulary": 3, "input_scaler": Scaler(mean=(0.0, 0.0), std=(1.0, 1.0))}, "cannot be scaled"),
        ({"features": ("a", "b", "c")}, "3 features named"),
        ({"feedback": True}, "3 is not 2"),
    ],
)
def test_an_inconsistent_configuration_is_refused(fields: dict[str, Any], sentence: str) -> None:
    """Fields that contradict each other are refused when the configuration is made, not when the network runs."""
    with pytest.raises(ValidationError, match=sentence):
        make_network(**{"cell": "lstm", **fields})


def test_a_scaler_needs_positive_standard_deviations() -> None:
    """A standard deviation of zero, as of a constant feature, is refused."""
    with pytest.raises(ValidationError, match="greater than zero"):
        Scaler(mean=(1.0,), std=(0.0,))


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.int32])
def test_weights_that_are_no_real_numbers_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """Booleans, complex numbers and integers are not cast silently."""
    path = tmp_path / "network.safetensors"
    network = make_network()
    weights = network.state_dict() | {"head.bias": network.head.bias.detach().to(dtype)}
    save_file(weights, path, metadata={"cellstream.network": network.config.model_dump_json()})
    with pytest.raises(CheckpointError, match=r"'head\.bias' is of .* save it as real numbers"):
        Network.load(path)


@pytest.mark.parametrize(
    ("cell", "layers", "options"),
    [
        ("grid_lstm", 64, {"blocks": 1024}),
        ("grid_lstm", 1024, {"blocks": 64}),
        ("depth_gated_lstm", 64, {"layers": 1024}),
        ("lstm", 1024, {}),
    ],
)
def test_a_file_that_claims_more_weights_than_it_has_is_refused_at_once(
    cell: str, layers: int, options: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing is built for a configuration of tens of thousands of weights in a file of one."""
    path = tmp_path / "network.safetensors"
    config = {"cell": cell, "input_size": 4, "hidden_size": 4, "output_size": 1, "num_layers": layers}
    metadata = {"cellstream.network": json.dumps(config | {"cell_options": options})}
    save_file({"w": torch.zeros(1)}, path, metadata=metadata)
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="it holds 1 and needs"):
        Network.load(path)
    assert time.perf_counter() - started < 1.0
