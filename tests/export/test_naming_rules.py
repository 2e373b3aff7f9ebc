"""States whose names follow the model's own rule are all found, or all asked about in one command."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.adopt import adopt_model
from export.adopt.errors import UnsettledStatesError
from export.adopt.foreign_model import Port
from export.adopt.naming_rules import NamingRule
from export.adopt.options import AdoptOptions
from export.adopt.pairs import find_pairs
from export.artefact import read_card
from tests.export.zoo import write


def ports(text: str) -> dict[str, Port]:
    """Return inputs or outputs from such as `u:3 h`, of size 4 where none is given."""
    sides = [one.partition(":") for one in text.split()]
    return {name: Port(name, "float32", ("batch", int(size or 4))) for name, _, size in sides}


# inputs → outputs, and the pairs that must be found
SIBLINGS = {
    "kalman": ("u:3 x_km1 p_km1", "y x_k p_k", "x_km1=x_k p_km1=p_k"),
    "next": ("u x_t p_t", "y x_t1 p_t1", "x_t=x_t1 p_t=p_t1"),
    "history": ("frame feat_hist ctx", "logits feat_hist_upd ctx_upd", "feat_hist=feat_hist_upd ctx=ctx_upd"),
    "outputs": ("x y_prev z_prev", "y y_out z_out", "y_prev=y_out z_prev=z_out"),
    "a word at the start": ("x old_y old_c", "y out_y out_c", "old_y=out_y old_c=out_c"),
    "a word in the middle": ("x y_prev_a z_prev_a", "y y_out_a z_out_a", "y_prev_a=y_out_a z_prev_a=z_out_a"),
    "three": ("u s_tm1 v_tm1 hidden_tm1", "y s_t v_t hidden_t", "s_tm1=s_t v_tm1=v_t hidden_tm1=hidden_t"),
}


@pytest.mark.parametrize("name", SIBLINGS)
def test_what_follows_the_rule_of_a_found_pair_is_found(name: str) -> None:
    """Outputs are listed in reverse: what one pair's names teach says which output feeds the other."""
    inputs, outputs, expected = SIBLINGS[name]
    found = find_pairs(ports(inputs), ports(" ".join(reversed(outputs.split()))), AdoptOptions())
    assert {pair.source: pair.target for pair in found} == dict(one.split("=") for one in expected.split())


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_pair_that_the_user_gives_teaches_its_rule(name: str) -> None:
    """--state for one of several states named by one rule is enough."""
    inputs, outputs, expected = SIBLINGS[name]
    pairs = dict(one.split("=") for one in expected.split())
    first = next(iter(pairs))
    found = find_pairs(ports(inputs), ports(outputs), AdoptOptions(states={first: pairs[first]}))
    assert {pair.source: pair.target for pair in found} == pairs


def test_data_is_not_fed_back_by_a_rule_that_states_follow() -> None:
    """audio and audio_out are data, though h and h_out are a state, and so is what alone is left to send."""
    found = find_pairs(ports("audio far h"), ports("audio_out h_out level"), AdoptOptions())
    assert [pair.source for pair in found] == ["h"]
    found = find_pairs(ports("value1 h"), ports("value1_out h_out"), AdoptOptions())
    assert [pair.source for pair in found] == ["h"]


def test_a_rule_does_not_choose_between_names_that_agree() -> None:
    """h may be fed from h_out and from hn, whatever g and g_out are."""
    with pytest.raises(UnsettledStatesError, match="--state h=h_out or --state h=hn"):
        find_pairs(ports("x h g"), ports("y h_out hn g_out"), AdoptOptions())


@pytest.mark.parametrize("names", ["left right → left_z right_z", "p_a q_a → p_b q_b", "x_km1 p_km1 → x_k p_k"])
def test_a_rule_that_no_found_pair_follows_is_asked_about(names: str) -> None:
    """Names that agree by a rule may be those of two channels: the question ends with one ready command."""
    sources, targets = (side.split() for side in names.split(" → "))
    inputs, outputs = ports(f"u {' '.join(sources)}"), ports(f"{' '.join(targets)} v")
    with pytest.raises(UnsettledStatesError) as asked:
        find_pairs(inputs, outputs, AdoptOptions())
    pairs = dict(zip(sources, targets, strict=True))
    assert asked.value.states == pairs
    command = " ".join(f"--state {source}={target}" for source, target in pairs.items())
    assert str(asked.value).endswith(f"python -m export adopt FILE --out FOLDER {command}")
    assert len(find_pairs(inputs, outputs, AdoptOptions(states=pairs))) == 2


def test_a_question_ends_with_every_state() -> None:
    """The pairs that were found, and a likely output for each input in doubt, are in one command."""
    inputs, outputs = ports("x p q h"), ports("y r s hn")
    with pytest.raises(UnsettledStatesError) as asked:
        find_pairs(inputs, outputs, AdoptOptions())
    assert asked.value.states == {"h": "hn", "p": "r", "q": "s"}
    assert str(asked.value).endswith("--state h=hn --state p=r --state q=s")
    assert len(find_pairs(inputs, outputs, AdoptOptions(states=asked.value.states))) == 3


@pytest.mark.parametrize(
    ("inputs", "outputs", "state"),
    [
        ("input_1:5 input_2:4", "output_1:5 output_2:2", "input_1=output_1"),
        ("args_0:5 args_1:4", "output_0:2 output_1:5", "args_0=output_1"),
        ("in0:7 in1:4", "o1:7 o2:2", "in0=o1"),
    ],
)
def test_a_first_input_of_a_generic_name_is_asked_about(inputs: str, outputs: str, state: str) -> None:
    """The state may be the first input; served without it, it would be an input of the clients'."""
    source = state.partition("=")[0]
    with pytest.raises(UnsettledStatesError, match=f"--state {state} or --state {source}= "):
        find_pairs(ports(inputs), ports(outputs), AdoptOptions())
    assert find_pairs(ports(inputs), ports(outputs), AdoptOptions(states={source: ""})) == ()


def test_a_first_input_beside_named_data_is_not_asked_about() -> None:
    """Where what else is sent says what it is, the first input is the model's data."""
    assert find_pairs(ports("x:16 speaker:8"), ports("y:16 z:3"), AdoptOptions()) == ()


@pytest.mark.parametrize(
    ("source", "target", "name", "expected"),
    [
        ("p_km1", "p_k", "x_km1", ["x_k"]),
        ("h", "next_h", "c", ["next_c"]),
        ("h_in_0", "h_out_0", "c_in_1", ["c_out_1"]),
        ("h_in", "h_out", "in", []),
    ],
)
def test_a_rule_makes_one_name_of_another(source: str, target: str, name: str, expected: list[str]) -> None:
    """What two names differ in is replaced in a third, where something of it is left."""
    rule = NamingRule.between(source, target)
    assert rule is not None
    assert rule.apply(name) == expected


def test_names_without_a_common_letter_follow_no_rule() -> None:
    """101 and 102 have a 10 in common, which says nothing."""
    assert NamingRule.between("101", "102") is None
    assert NamingRule.between("p", "r") is None


def two_states() -> ModelProto:
    """Return a graph whose two states, x_km1 and p_km1, decay at different rates."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for name, kept in (("x", 0.3), ("p", 0.8)):
        nodes += [
            helper.make_node("Mul", [f"{name}_km1", f"{name}_kept"], [f"{name}_less"]),
            helper.make_node("MatMul", ["u", f"{name}_W"], [f"{name}_new"]),
            helper.make_node("Add", [f"{name}_less", f"{name}_new"], [f"{name}_k"]),
        ]
        weights += [
            numpy_helper.from_array(np.array(kept, np.float32), f"{name}_kept"),
            numpy_helper.from_array(random.normal(size=(3, 4)).astype(np.float32), f"{name}_W"),
        ]
    nodes.append(helper.make_node("Sum", ["x_k", "p_k"], ["y"]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "kalman",
        [value(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("u", 3), ("x_km1", 4), ("p_km1", 4))],
        [value(name, TensorProto.FLOAT, ["batch", 4]) for name in ("y", "p_k", "x_k")],
        initializer=weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_siblings_are_served_as_the_original_computes_them(tmp_path: Path) -> None:
    """Both states are carried: the comparisons with the original, its states fed back by hand, agree."""
    card = read_card(adopt_model(write(two_states(), tmp_path / "m.onnx"), tmp_path, "m", 1))
    assert {state.name for state in card.states} == {"x_km1", "p_km1"}
    assert [spec.name for spec in card.inputs] == ["u"]
    assert max(card.parity.errors.values()) <= 1e-6
