"""What the names of inputs and outputs say: whether they name a state or data, and which of them name the same."""

import re


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TIMES = _listed(
    "in out input output inp outp new next nxt prev previous old past present cur current curr now init initial final"
    " last first updated update upd ret returned from to t tm n i o x y src dst state states onnx"
)
"""Words that say when a state is read or written, or nothing, but not which state it is."""
_STATE_WORDS = _listed(
    "h c hx cx hn cn h0 c0 hidden cell state states cache caches mem memory buf buffer fifo past present carry context"
    " hin hout cin cout hiddens rnn lstm gru kv history hist queue ring delay counter"
)
_LAYER_WORDS = _listed("rnn lstm gru")
"""Words for layers that hold a state and also read data: lstm_input and lstm_output are not one state."""
DATA_WORDS = _listed(
    "x y xs ys data input inputs output outputs out audio wav pcm signal samples frame frames feature features feat"
    " feats mel obs observation observations tokens token ids logits logit prob probs probability score scores pred"
    " prediction predictions action actions image images img value values target mask masks result lengths lens seg"
    " segmentation speaker embedding embeddings lang style content stylised noisy clean mic far"
)
SIDES = _listed("in out input inputs output outputs")
"""Words for data that states have in their names as well: t_in and t_out may be either."""
_UNTIL_NEXT = _listed("new next nxt prev previous old past present updated upd")
"""Words that only a state needs: what is new was something else before."""
_STEP_SIDES = SIDES | _UNTIL_NEXT | _listed("cur current")
"""Words that tell the input of a step from its output."""
_GENERIC = SIDES | _listed(
    "x y xs ys data args arg value values feat feats feature features target result layer tensor placeholder serving"
    " default"
)
"""Words that exporters and notations use for data and for states."""
DRIVING = _listed("u control controls obs observation observations measurement measurements action actions")
"""Words for what drives or measures a system."""
PLAIN = DATA_WORDS - _GENERIC
"""Words that say what the data is."""


def words(name: str) -> list[str]:
    """Split a name into lower-case words: at marks, at capitals, and before and after digits."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]


def timeless(name: str) -> tuple[str, ...]:
    """Return a name without the words for time: h_in, hn and new_h are all `h`."""
    found = []
    for word in words(name):
        match = re.fullmatch(r"([hc]|hidden|cell|state|cache|mem|buf|buffer)(n|x|t|in|out|new|next|prev)", word)
        found.append(match[1] if match else word)
    kept = tuple(word for word in found if word not in _TIMES)
    if kept:
        return kept
    return tuple(word for word in found if word in ("state", "states"))[:1]


def bare_key(name: str) -> tuple[str, ...]:
    """Return the same without numbers, which may be times as well: h0 and hn."""
    return tuple(word for word in timeless(name) if not word.isdigit())


def untimed(name: str) -> tuple[str, ...]:
    """Return a name without the words for the next step, where the rest says anything: x and x_next are both `x`."""
    kept = tuple(word for word in words(name) if word not in _UNTIL_NEXT)
    return kept if any(not word.isdigit() for word in kept) else ()


def is_data(name: str) -> bool:
    """Return whether a name is that of data."""
    named = set(words(name))
    return bool(named & DATA_WORDS) and not named & _STATE_WORDS


def _names_data(source: str, target: str) -> bool:
    """Return whether two names are those of the same data before and after the model, as audio and audio_out."""
    return all(is_data(name) and set(words(name)) & (DATA_WORDS - SIDES) for name in (source, target)) and not (
        {*words(source), *words(target)} & (_STEP_SIDES - SIDES)
    )


def names_nothing(source: str, target: str) -> bool:
    """Return whether two names that agree are those of data, or agree in numbers alone, as input_1 and output_1."""
    generic = is_generic(source) and is_generic(target) and not {*words(source), *words(target)} & _UNTIL_NEXT
    return generic or _names_data(source, target)


def says_data(source: str, target: str) -> bool:
    """Return whether two names say what data they are, as audio and audio_out, or nothing at all, as x and x_out."""
    both = {*words(source), *words(target)}
    plain = all(set(words(name)) & PLAIN and not set(words(name)) & _STATE_WORDS for name in (source, target))
    return (plain or (is_generic(source) and is_generic(target))) and not both & _UNTIL_NEXT


def is_generic(name: str) -> bool:
    """Return whether a name says nothing: input_2, args_1, x."""
    said = [word for word in words(name) if word not in _UNTIL_NEXT and not word.isdigit()]
    return all(word in _GENERIC for word in said) and (bool(said) or not set(words(name)) & _UNTIL_NEXT)


def is_state(name: str) -> bool:
    """Return whether a name is that of a state."""
    return bool(set(words(name)) & _STATE_WORDS or {re.sub(r"\d+$", "", name.lower())} & _STATE_WORDS)


def names_one_state(source: str, target: str) -> bool:
    """Return whether two names say the same by a rule that pairs states, and one of them is that of a state."""
    agree = any(key(source) == key(target) != () for key in (timeless, bare_key))
    return agree and bool({*words(source), *words(target)} & (_STATE_WORDS - _LAYER_WORDS))


def stem(name: str) -> tuple[str, ...]:
    """Return a name without the words for input and output: n and n_out are both `n`; numbers alone say nothing."""
    kept = tuple(word for word in words(name) if word not in _STEP_SIDES)
    return kept if any(not word.isdigit() for word in kept) else ()
