"""States are paired by what their names say, as exporters and people name them; never by order."""

import pytest

from export.adopt.errors import AmbiguousError, NotServableError
from export.adopt.foreign import Port
from export.adopt.pairs import find_pairs
from export.adopt.wishes import Wishes

CONVENTIONS = (
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
    """All tensors have one shape, and outputs stand in the opposite order: the names still say which is which."""
    expected = dict(pair.split("→") for pair in convention.split())
    inputs = ports("x", *expected)
    outputs = ports(*reversed(expected.values()), "y")
    found = find_pairs(inputs, outputs, Wishes())
    assert {pair.source: pair.target for pair in found} == expected
    assert all(pair.sure for pair in found)


@pytest.mark.parametrize("names", [("x", "y"), ("input", "output"), ("audio", "probability"), ("obs", "action")])
def test_data_of_one_shape_is_no_state(names: tuple[str, str]) -> None:
    """An input and an output of equal shape that are named as data are not fed back."""
    assert find_pairs(ports(names[0]), ports(names[1]), Wishes()) == ()


@pytest.mark.parametrize(("inputs", "outputs"), [("x p q", "y r s"), ("x h g", "y h_out hn g_out")])
def test_what_names_do_not_settle_is_asked(inputs: str, outputs: str) -> None:
    """Where two readings are possible none is taken."""
    with pytest.raises(AmbiguousError, match="--state"):
        find_pairs(ports(*inputs.split()), ports(*outputs.split()), Wishes())


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
        find_pairs(inputs, outputs, Wishes())
    assert str(source) in str(refused.value)
    assert str(target) in str(refused.value)
    assert f"--state {source.name}=" in str(refused.value)
    assert find_pairs(inputs, outputs, Wishes(states={source.name: ""})) == ()


@pytest.mark.parametrize("text", NO_STATES)
def test_data_of_two_shapes_is_no_state(text: str) -> None:
    """Names that agree, or none, make no state of an ordinary input and output of different shapes."""
    source, target = misfit(text)
    assert find_pairs({source.name: source}, {target.name: target}, Wishes()) == ()


def test_what_is_left_over_is_a_state() -> None:
    """An input named as a state is fed from the only output that is not named as data."""
    assert [pair.target for pair in find_pairs(ports("x", "h"), ports("y", "z"), Wishes())] == ["z"]


UNUSUAL = (
    ("x float32 8 → y float32 2", "t_in int64 1 → t_out int64 1"),
    ("x float32 8 → y float32 2", "t_in float32 5 → t_out float32 5"),
    ("x float32 8 → y float32 8", "n float32 1 → n_out float32 1"),
    ("input_2 float32 1,257 → conv1d float32 1,257", "input_3 float32 2,128,2 → stack_2 float32 2,128,2"),
)
USUAL = (
    ("x float32 8 → y float32 2", "tokens int64 1 → action int64 1"),
    ("x float32 8 → y float32 8", "speaker int64 1 → z float32 3"),
    ("image float32 3,9,9 → y float32 3,9,9", "in float32 1 → z float32 3"),
    ("audio float32 8 → audio_out float32 8", "input_1 int64 4 → score_1 int64 4"),
)


def both(texts: tuple[str, ...]) -> tuple[dict[str, Port], dict[str, Port]]:
    sides = [misfit(text) for text in texts]
    return {a.name: a for a, _ in sides}, {b.name: b for _, b in sides}


@pytest.mark.parametrize("texts", UNUSUAL)
def test_a_lone_pair_that_looks_like_no_other_data_is_asked_about(texts: tuple[str, str]) -> None:
    """Names that say nothing never lead to a state that is served as an input without a word."""
    inputs, outputs = both(texts)
    source, target = list(inputs)[1], list(outputs)[1]
    with pytest.raises(AmbiguousError, match=f"--state {source}={target} or --state {source}= "):
        find_pairs(inputs, outputs, Wishes())
    assert [pair.target for pair in find_pairs(inputs, outputs, Wishes(states={source: target}))] == [target]
    assert find_pairs(inputs, outputs, Wishes(states={source: ""})) == ()


@pytest.mark.parametrize("texts", [*USUAL, ("in int64 4 → out int64 4",)])
def test_usual_data_is_not_asked_about(texts: tuple[str, ...]) -> None:
    """Ids and images named as such, an input alone, and inputs that no output is like, need no option."""
    assert find_pairs(*both(texts), Wishes()) == ()
