"""States are paired by what their names say, as exporters and people name them; never by position."""

import pytest

from export.adopt.errors import AmbiguousError, NotServableError, UnsettledStatesError
from export.adopt.foreign_model import Port
from export.adopt.options import AdoptOptions
from export.adopt.pairs import find_pairs

CONVENTIONS = (
    "x→x_next",
    "x→x_new P→P_new",
    "values_prev→values_updated",
    "feats→new_feats past_obs→obs",
    "h0→hn c0→cn",
    "h_0→h_n c_0→c_n",
    "h→hn c→cn",
    "h_in→h_out c_in→c_out",
    "hin→hout cin→cout",
    "h1→h1_out h2→h2_out c1→c1_out c2→c2_out",
    "h.0→new_h.0 h.1→new_h.1",
    "hidden→hidden_out cell→cell_out",
    "hidden_state→new_hidden_state cell_state→new_cell_state",
    "prevHidden→nextHidden prevCell→nextCell",
    "state→stateN",
    "state→new_state",
    "state_1→state_1_next state_2→state_2_next",
    "initial_state→final_state",
    "lstm_h_in→lstm_h_out gru_h_in→gru_h_out",
    "cached_len_0→new_cached_len_0 cached_len_1→new_cached_len_1 cached_avg_0→new_cached_avg_0",
    "past_conv→present_conv past_attn→present_attn",
    "enc_buf→enc_buf_out dec_buf→dec_buf_out",
    "onnx::LSTM_h→LSTM_h_out onnx::LSTM_c→LSTM_c_out",
    "conv_cache→conv_cache_out tra_cache→tra_cache_out inter_cache→inter_cache_out",
)


def ports(*names: str) -> dict[str, Port]:
    return {name: Port(name, "float32", ("batch", 8)) for name in names}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_names_alone_tell_equal_shapes_apart(convention: str) -> None:
    """All tensors have one shape, and outputs are listed in reverse: the names still say which is which."""
    expected = dict(pair.split("→") for pair in convention.split())
    inputs = ports("u", *expected)
    outputs = ports(*reversed(expected.values()), "y")
    found = find_pairs(inputs, outputs, AdoptOptions())
    assert {pair.source: pair.target for pair in found} == expected
    assert all(pair.sure for pair in found)


@pytest.mark.parametrize("names", [("x", "y"), ("input", "output"), ("audio", "probability"), ("obs", "action")])
def test_data_of_one_shape_is_no_state(names: tuple[str, str]) -> None:
    """An input and an output of equal shape that are named as data are not fed back."""
    assert find_pairs(ports(names[0]), ports(names[1]), AdoptOptions()) == ()


@pytest.mark.parametrize(("inputs", "outputs"), [("x p q", "y r s"), ("x h g", "y h_out hn g_out")])
def test_what_names_do_not_settle_is_asked(inputs: str, outputs: str) -> None:
    """Where two readings are possible none is taken."""
    with pytest.raises(AmbiguousError, match="--state"):
        find_pairs(ports(*inputs.split()), ports(*outputs.split()), AdoptOptions())


MISFITS = (
    "h0 float32 4 → hn float32 5",
    "h0 float32 4 → hn float16 4",
    "h_in float32 4 → h_out float32 1,4",
    "state float32 4 → new_state float32 8",
    "conv_cache float32 3 → conv_cache_out float32 5",
    "past_conv float32 3 → present_conv float32 5",
    "lstm_h_in float32 4 → lstm_h_out float32 8",
)
NO_STATES = (
    "x float32 4 → y float32 5",
    "input float32 4 → output float32 5",
    "audio_in float32 4 → audio_out float32 5",
    "lstm_input float32 4 → lstm_output float32 5",
    "gru_input float32 4 → gru float32 5",
    "image float32 4 → image_out float32 5",
    "embedding float32 4 → embedding_out float32 5",
    "state float32 4 → value float32 1",
    "h0 float32 4 → probability float32 1",
)


def misfit(text: str) -> tuple[Port, Port]:
    sides = [side.split() for side in text.split(" → ")]
    first, second = (Port(name, dtype, ("batch", *map(int, dims.split(",")))) for name, dtype, dims in sides)
    return first, second


@pytest.mark.parametrize("text", MISFITS)
def test_a_state_whose_names_agree_but_not_its_shapes_is_refused(text: str) -> None:
    """It would otherwise be served stateless: the sentence has both names and shapes, and the option that says so."""
    source, target = misfit(text)
    inputs, outputs = ports("x") | {source.name: source}, ports("y") | {target.name: target}
    with pytest.raises(NotServableError) as refused:
        find_pairs(inputs, outputs, AdoptOptions())
    assert str(source) in str(refused.value)
    assert str(target) in str(refused.value)
    assert f"--state {source.name}=" in str(refused.value)
    assert find_pairs(inputs, outputs, AdoptOptions(states={source.name: ""})) == ()


@pytest.mark.parametrize("text", NO_STATES)
def test_data_of_two_shapes_is_no_state(text: str) -> None:
    """Names that agree, or none, make no state of an ordinary input and output of different shapes."""
    source, target = misfit(text)
    assert find_pairs({source.name: source}, {target.name: target}, AdoptOptions()) == ()


def test_what_is_left_over_is_a_state() -> None:
    """An input named as a state is fed from the only output that is not named as data."""
    assert [pair.target for pair in find_pairs(ports("x", "h"), ports("y", "z"), AdoptOptions())] == ["z"]


UNUSUAL = (
    ("x float32 8 → y float32 2", "t_in int64 1 → t_out int64 1"),
    ("x float32 8 → y float32 2", "t_in float32 5 → t_out float32 5"),
    ("x float32 8 → y float32 8", "n float32 1 → n_out float32 1"),
    ("input_2 float32 1,257 → conv1d float32 1,257", "input_3 float32 2,128,2 → stack_2 float32 2,128,2"),
)
GENERIC = (
    ("input_1 float32 4 → dense float32 2", "input_2 float32 5 → lstm_1 float32 5"),
    ("input_layer float32 4 → output_0 float32 2", "input_layer_1 float32 5 → output_1 float32 5"),
    ("args_0 float32 4 → output_0 float32 2", "args_1 float32 5 → output_1 float32 5"),
    ("inputs float32 4 → output_0 float32 2", "inputs_1 float32 5 → output_1 float32 5"),
    ("input_2 float32 1,257 → activation_2 float32 1,257", "input_3 float32 2,128 → tf_op_stack_2 float32 2,128"),
    ("in0 float32 4 → o101 float32 5", "in1 float32 1,5 → o102 float32 1,5"),
    ("x float32 4 → y float32 2", "input_1 float32 5 → input_3 float32 5"),
    ("x float32 4 → y float32 4", "feat_in float32 5 → feat_out float32 5"),
    ("frames float32 3,8 → result float32 2", "values float32 7 → values_out float32 7"),
    ("z float32 2 → w float32 9", "x float32 4 → x_out float32 4"),
)
USUAL = (
    ("noisy float32 160 → clean float32 160", "gain float32 1 → level float32 3"),
    ("mic float32 16 → clean float32 16", "far float32 8 → level float32 3"),
    ("content float32 64 → stylised float32 64", "style float32 8 → level float32 3"),
    ("x float32 16 → y float32 16", "speaker float32 8 → embedding float32 8"),
    ("x float32 16 → y float32 16", "img float32 3,8,8 → seg float32 3,8,8"),
    ("audio float32 16 → logits float32 3", "input_lengths int64 1 → output_lengths int64 1"),
    ("x float32 8 → y float32 2", "tokens int64 1 → action int64 1"),
    ("x float32 8 → y float32 8", "speaker int64 1 → z float32 3"),
    ("image float32 3,9,9 → y float32 3,9,9", "in float32 1 → z float32 3"),
    ("audio float32 8 → audio_out float32 8", "input_1 int64 4 → score_1 int64 4"),
)


def both(texts: tuple[str, ...]) -> tuple[dict[str, Port], dict[str, Port]]:
    sides = [misfit(text) for text in texts]
    return {a.name: a for a, _ in sides}, {b.name: b for _, b in sides}


@pytest.mark.parametrize("texts", [*UNUSUAL, *GENERIC])
def test_a_lone_pair_that_looks_like_no_other_data_is_asked_about(texts: tuple[str, str]) -> None:
    """Names that say nothing, as an exporter's, never make a state an input without asking."""
    inputs, outputs = both(texts)
    source, target = list(inputs)[1], list(outputs)[1]
    with pytest.raises(AmbiguousError, match=f"--state {source}={target} or --state {source}= "):
        find_pairs(inputs, outputs, AdoptOptions())
    assert [pair.target for pair in find_pairs(inputs, outputs, AdoptOptions(states={source: target}))] == [target]
    assert find_pairs(inputs, outputs, AdoptOptions(states={source: ""})) == ()


@pytest.mark.parametrize("texts", [*USUAL, ("in int64 4 → out int64 4",)])
def test_usual_data_is_not_asked_about(texts: tuple[str, ...]) -> None:
    """Ids and images named as such, an input alone, and inputs that no output is like, need no option."""
    assert find_pairs(*both(texts), AdoptOptions()) == ()


def model(text: str) -> tuple[dict[str, Port], dict[str, Port]]:
    """Return inputs and outputs from such as `u:2 p:8 → r:8`, a name and a size each."""
    sides = [[one.split(":") for one in side.split()] for side in text.split(" → ")]
    first, second = ({name: Port(name, "float32", ("batch", int(size))) for name, size in side} for side in sides)
    return first, second


LONE = (
    ("lr:8 alpha:1 → hr:8", "lr=hr"),
    ("u:8 p:1 h:3 → r:8 hn:3", "u=r"),
    ("u:8 p:1 → r:8 v:9", "u=r"),
    ("u:2 p:8 → r:8", "p=r"),
    ("u:2 p:8 h:3 → y:8 r:8 hn:3", "p=r"),
)


@pytest.mark.parametrize(("text", "state"), LONE)
def test_shape_alone_makes_no_state_of_what_may_be_data(text: str, state: str) -> None:
    """The first input, a pair that would leave no output, and a pair beside named states are asked about."""
    with pytest.raises(AmbiguousError, match=f"--state {state} or --state {state.partition('=')[0]}= "):
        find_pairs(*model(text), AdoptOptions())


def test_shape_alone_makes_a_state_where_data_is_left() -> None:
    """Such a pair is not sure: the run must confirm it."""
    found = find_pairs(*model("u:2 p:8 → r:8 v:3"), AdoptOptions())
    assert [(pair.source, pair.target, pair.sure) for pair in found] == [("p", "r", False)]


SINGLE = (
    "h:7 u:8 → hn:7 r:8",
    "h:7 x:8 → hn:7 y:8",
    "h:7 frame:8 → hn:7 next_frame:8",
    "u:8 → r:8 s:8",
    "x:8 → x_new:8",
)


@pytest.mark.parametrize("text", SINGLE)
def test_a_single_input_beside_states_is_never_asked_about(text: str) -> None:
    """It is what clients send, though an output be like it."""
    inputs, outputs = model(text)
    assert {pair.source for pair in find_pairs(inputs, outputs, AdoptOptions())} == inputs.keys() & {"h"}


def test_a_first_input_beside_a_control_is_asked_about() -> None:
    """In x and u of a system x is the state: the first input is not taken for data because it comes first."""
    with pytest.raises(AmbiguousError, match=r"the input x .* may be a state.* FOLDER --state x=y$"):
        find_pairs(ports("x", "u"), ports("y"), AdoptOptions())
    assert find_pairs(ports("x", "u"), ports("y"), AdoptOptions(states={"x": ""})) == ()
    assert find_pairs(ports("x", "mask"), ports("y"), AdoptOptions()) == ()


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (("input_1", "input_2"), ("output_1", "output_2")),
        (("input_1", "input_2", "input_3"), ("output_1", "output_2", "output_3")),
        (("x", "n", "h_in"), ("y", "n_out", "h_out")),
    ],
)
def test_a_question_ends_with_one_command_that_settles_it(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Its --state options, given as they are, leave no other question, and something for clients to send."""
    with pytest.raises(UnsettledStatesError) as asked:
        find_pairs(ports(*inputs), ports(*outputs), AdoptOptions())
    command = str(asked.value).rsplit("All states in one command: ", 1)[1]
    states = dict(option.split("=") for option in command.split(" --state ")[1:])
    pairs = find_pairs(ports(*inputs), ports(*outputs), AdoptOptions(states=states))
    assert {pair.source: pair.target for pair in pairs} == {name: target for name, target in states.items() if target}
    assert len(pairs) < len(inputs)
