"""Which outputs are fed back to which inputs: by name, shape and dtype; a later run shows whether it matters."""

from collections.abc import Callable

from export.adopt.errors import BadOptionError, NotServableError
from export.adopt.foreign_model import Port
from export.adopt.names import (
    bare_key,
    is_data,
    is_generic,
    is_state,
    names_nothing,
    says_data,
    timeless,
    untimed,
)
from export.adopt.naming_rules import rules_of
from export.adopt.options import AdoptOptions
from export.adopt.pair_questions import (
    doubtful_pair,
    refuse_generic,
    refuse_misfits,
    refuse_named_by_one_rule,
    refuse_open,
    refuse_unusual,
)
from export.adopt.pairing import Pair, fitting, left_of


def find_pairs(inputs: dict[str, Port], outputs: dict[str, Port], options: AdoptOptions) -> tuple[Pair, ...]:
    """Pair states: those that the user names first, then those for which only one pair is possible.

    Raises:
        BadOptionError: An option names no input or output.
        UnsettledStatesError: An output could feed an input, and names do not say whether, or which of several does.
        NotServableError: A pair given by the user or by names has different shapes or dtypes.
    """
    pairs = [_given_pair(source, target, inputs, outputs) for source, target in options.states.items() if target]
    settled = set(options.states) | set(options.constants) | set(options.steps) | set(options.overlaps)
    open_inputs = [port for name, port in inputs.items() if name not in settled]
    free = {name: port for name, port in outputs.items() if name not in {pair.target for pair in pairs}}
    fits = {port.name: [name for name, out in free.items() if fitting(port, out)] for port in open_inputs}

    for key in (timeless, bare_key, untimed):
        pairs += _by_name(open_inputs, fits, {pair.source for pair in pairs}, {pair.target for pair in pairs}, key)
        pairs += _by_rule(open_inputs, fits, pairs)
    refuse_misfits(open_inputs, list(free.values()), pairs)

    while lone := [pair for pair in _lone(open_inputs, outputs, fits, pairs) if pair.sure]:
        pairs += lone
        pairs += _by_rule(open_inputs, fits, pairs)
    if len(pairs) == len(inputs):
        # something must be left for clients to send: the only one that is named as data, if any
        sent = [pair for pair in pairs if pair.source not in options.states and is_data(pair.source)]
        pairs = [pair for pair in pairs if sent != [pair]]
    named = any(pair.source not in options.states for pair in pairs)
    while lone := [pair for pair in _lone(open_inputs, outputs, fits, pairs) if not is_generic(pair.source)]:
        data = [name for name in inputs if name not in {pair.source for pair in pairs}]
        likely = [pair for pair in lone if pair.source != data[0]]
        if len(data) == 1:
            break  # it is what clients send
        if named or not likely or len(outputs) - len({pair.target for pair in pairs}) == 1:
            raise doubtful_pair((likely or lone)[0], inputs, pairs, "alone share their shape and dtype")
        pairs.append(likely[0])
        pairs += _by_rule(open_inputs, fits, pairs)

    sources = {pair.source for pair in pairs}
    rest = [port for port in open_inputs if port.name not in sources]
    refuse_named_by_one_rule(rest, fits, inputs, pairs)
    if len(inputs) - len(pairs) > 1 or any(is_state(port.name) for port in rest):
        refuse_open(left_of(rest, outputs, fits, pairs), outputs, inputs, pairs)
    refuse_unusual(rest, fits, inputs, pairs)
    refuse_generic(rest, outputs, fits, inputs, pairs)
    return tuple(pairs)


def _lone(inputs: list[Port], outputs: dict[str, Port], fits: dict[str, list[str]], pairs: list[Pair]) -> list[Pair]:
    """Return the pairs that are the only ones left of their shape and dtype, and not named as data."""
    sources = {pair.source for pair in pairs}
    left = left_of([port for port in inputs if port.name not in sources], outputs, fits, pairs)
    return [
        Pair(name, found[0], *_reason(name, found[0]), alone=True)
        for name, found in left.items()
        if len(found) == 1
        and [other for other, its in left.items() if found[0] in its and not is_data(other)] == [name]
        and not (is_data(name) or is_data(found[0]))
    ]


def _by_name(
    inputs: list[Port], fits: dict[str, list[str]], sources: set[str], targets: set[str], key: Callable[[str], object]
) -> list[Pair]:
    """Pair inputs and outputs that fit, where no other name says the same."""
    found: list[Pair] = []
    for port in inputs:
        named = [
            name
            for name in fits[port.name]
            if name not in targets and key(name) == key(port.name) != () and not names_nothing(port.name, name)
        ]
        if port.name not in sources and len(named) == 1:
            found.append(Pair(port.name, named[0], "the names agree, and shape and dtype"))
    taken = [pair.target for pair in found]
    return [pair for pair in found if taken.count(pair.target) == 1]


def _by_rule(inputs: list[Port], fits: dict[str, list[str]], pairs: list[Pair]) -> list[Pair]:
    """Pair what is left by the rules that the names of found pairs follow: p_km1 and p_k, so x_km1 and x_k."""
    found: list[Pair] = []
    sources, targets = {pair.source for pair in pairs}, {pair.target for pair in pairs}
    left = [port.name for port in inputs if port.name not in sources]
    for rule, example in rules_of((pair.source, pair.target) for pair in pairs):
        for name in left:
            named = [
                target
                for target in rule.apply(name)
                if target in fits[name] and target not in targets and not says_data(name, target)
            ]
            rivals = [target for target in fits[name] if target not in targets and _agree(name, target)]
            if len(named) == 1 and set(rivals) <= set(named) and name not in {pair.source for pair in found}:
                found.append(Pair(name, named[0], named_by_rule(Pair(*example, ""))))
    taken = [pair.target for pair in found]
    found = [pair for pair in found if taken.count(pair.target) == 1]
    # what is left alone is what clients send, unless its name is that of a state
    return found if len(left) > len(found) else [pair for pair in found if is_state(pair.source)]


def named_by_rule(example: Pair) -> str:
    """Return why a pair is one whose names differ as those of an example do."""
    return f"named by the rule of {example.source} and {example.target}"


def _agree(source: str, target: str) -> bool:
    return any(key(source) == key(target) != () for key in (timeless, bare_key))


def _reason(source: str, target: str) -> tuple[str, bool]:
    if is_state(source) or is_state(target):
        return "the only pair left of its shape and dtype, named as a state", True
    return "the only pair left of its shape and dtype", False


def _given_pair(source: str, target: str, inputs: dict[str, Port], outputs: dict[str, Port]) -> Pair:
    option = f"--state {source}={target}"
    if source not in inputs:
        raise BadOptionError(option, f"the model has no input {source!r}, only {', '.join(inputs)}")
    if target not in outputs:
        raise BadOptionError(option, f"the model has no output {target!r}, only {', '.join(outputs)}")
    if not fitting(inputs[source], outputs[target]):
        raise NotServableError(
            f"{inputs[source]} cannot be fed from {outputs[target]}: a state must keep its dtype and shape"
        )
    return Pair(source, target, "given by --state")
