"""Which outputs are fed back to which inputs: by name, shape and dtype; a later run shows whether it matters."""

from collections.abc import Callable
from dataclasses import dataclass

from export.adopt.errors import BadOptionError, NotServableError, UnsettledStatesError
from export.adopt.foreign_model import Port
from export.adopt.names import (
    DATA_WORDS,
    PLAIN,
    SIDES,
    bare_key,
    is_data,
    is_generic,
    is_state,
    names_nothing,
    names_one_state,
    says_data,
    stem,
    timeless,
    untimed,
    words,
)
from export.adopt.naming_rules import rules_of, shared_rules
from export.adopt.options import AdoptOptions


@dataclass(frozen=True, slots=True)
class Pair:
    """An input, the output that is fed back to it, and why."""

    source: str
    target: str
    reason: str
    sure: bool = True
    """Whether names say so; a pair by shape alone must be confirmed by a run."""
    alone: bool = False
    """Whether it was taken because nothing else was left, though the two names do not agree."""


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
    _refuse_misfits(open_inputs, list(free.values()), pairs)

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
            raise _doubtful((likely or lone)[0], inputs, pairs, "alone share their shape and dtype")
        pairs.append(likely[0])
        pairs += _by_rule(open_inputs, fits, pairs)

    sources = {pair.source for pair in pairs}
    rest = [port for port in open_inputs if port.name not in sources]
    _refuse_named_by_one_rule(rest, fits, inputs, pairs)
    if len(inputs) - len(pairs) > 1 or any(is_state(port.name) for port in rest):
        _refuse_open(_left(rest, outputs, fits, pairs), outputs, inputs, pairs)
    _refuse_unusual(rest, fits, inputs, pairs)
    _refuse_generic(rest, outputs, fits, inputs, pairs)
    return tuple(pairs)


def _left(
    rest: list[Port], outputs: dict[str, Port], fits: dict[str, list[str]], pairs: list[Pair]
) -> dict[str, list[str]]:
    """Return input → the outputs that could feed it and are not fed back yet."""
    targets = {pair.target for pair in pairs}
    return {
        port.name: _likely([outputs[name] for name in fits[port.name] if name not in targets], port) for port in rest
    }


def _lone(inputs: list[Port], outputs: dict[str, Port], fits: dict[str, list[str]], pairs: list[Pair]) -> list[Pair]:
    """Return the pairs that are the only ones left of their shape and dtype, and not named as data."""
    sources = {pair.source for pair in pairs}
    left = _left([port for port in inputs if port.name not in sources], outputs, fits, pairs)
    return [
        Pair(name, found[0], *_reason(name, found[0]), alone=True)
        for name, found in left.items()
        if len(found) == 1
        and [other for other, its in left.items() if found[0] in its and not is_data(other)] == [name]
        and not (is_data(name) or is_data(found[0]))
    ]


def fitting(source: Port, target: Port) -> bool:
    """Return whether an output may be fed to an input by what the file declares."""
    if source.dtype != target.dtype:
        return False
    if not target.dims:
        return not source.dims
    if len(source.dims) != len(target.dims):
        return False
    return all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(source.dims, target.dims, strict=True)
    )


def _likely(fits: list[Port], source: Port) -> list[str]:
    """Return the names of the outputs that fit, without those of other fixed sizes or named as data, if any is left."""
    fixed = [dim if isinstance(dim, int) else None for dim in source.dims]
    same = [port for port in fits if [dim if isinstance(dim, int) else None for dim in port.dims] == fixed] or fits
    return [port.name for port in same if not is_data(port.name)] or [port.name for port in same]


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


def _refuse_misfits(inputs: list[Port], outputs: list[Port], pairs: list[Pair]) -> None:
    """Refuse where a state's input and an output agree by name alone: such a state would never change."""
    sources, targets = {pair.source for pair in pairs}, {pair.target for pair in pairs}
    for port in inputs:
        named = [out for out in outputs if out.name not in targets and names_one_state(port.name, out.name)]
        if port.name not in sources and named and not any(fitting(port, out) for out in named):
            raise NotServableError(
                f"the input {port} and the output {named[0]} are one state by their names, but not by shape and dtype, "
                f"which a state must keep from step to step. If {port.name} is no state, say so by --state {port.name}="
            )


def _refuse_named_by_one_rule(
    rest: list[Port], fits: dict[str, list[str]], inputs: dict[str, Port], pairs: list[Pair]
) -> None:
    """Refuse where several inputs and outputs that are left follow one rule of naming, as left_in and left_out do."""
    targets = {pair.target for pair in pairs}
    open_pairs = [
        (port.name, target)
        for port in rest
        for target in fits[port.name]
        if target not in targets and not says_data(port.name, target)
    ]
    for rule, group in shared_rules(open_pairs):
        if len(set(group.values())) == len(group) < len(inputs) - len(pairs):
            raise UnsettledStatesError(
                f"several inputs and outputs are named by one rule ({rule}), so they may be states",
                [f"{source}={target}" for source, target in group.items()],
                " and ".join(f"--state {source}={target} or --state {source}=" for source, target in group.items())
                + " (without an output: no state)",
                _settled(pairs) | group,
            )


def _settled(pairs: list[Pair]) -> dict[str, str]:
    return {pair.source: pair.target for pair in pairs}


def _refuse_open(
    left: dict[str, list[str]], outputs: dict[str, Port], inputs: dict[str, Port], pairs: list[Pair]
) -> None:
    """Refuse where an input that is not named as data may be fed from several outputs, and nothing decides."""
    _refuse_candidates(
        {
            name: found if is_state(name) else [target for target in found if not is_data(target)]
            for name, found in left.items()
            if not is_data(name)
        },
        outputs,
        inputs,
        pairs,
    )


def _refuse_candidates(
    candidates: dict[str, list[str]], outputs: dict[str, Port], inputs: dict[str, Port], pairs: list[Pair]
) -> None:
    """Refuse where there are candidates, and show a command with a likely output for each input in doubt."""
    doubtful = {name: found for name, found in candidates.items() if found}
    likely = _settled(pairs)
    for name, found in doubtful.items():
        likely[name] = next((target for target in found if target not in likely.values()), "")
    for name, found in doubtful.items():
        options = " or ".join(f"--state {name}={target}" for target in [*found, ""])
        raise UnsettledStatesError(
            f"the input {inputs[name]} may be a state, fed from any of",
            [str(outputs[target]) for target in found],
            f"{options} (the last: {name} is no state)",
            likely,
        )


def _refuse_unusual(rest: list[Port], fits: dict[str, list[str]], inputs: dict[str, Port], pairs: list[Pair]) -> None:
    """Refuse where an input and an output look like a state, though their names do not say that they are one.

    They differ only in a word for input or output, or they alone have their shape and dtype. Served without a state,
    such a counter or such a stack of states would start again at every step, and nothing would show it.
    """
    sources, targets = {pair.source for pair in pairs}, {pair.target for pair in pairs}
    data = [port for name, port in inputs.items() if name not in sources]
    main = next((port for port in data if port.dtype.startswith("float")), None)
    for port in rest:
        free = [name for name in fits[port.name] if name not in targets]
        twins = [name for name in free if stem(name) == stem(port.name) != ()]
        rivals = [other for other in rest if set(fits[other.name]) & set(free)]
        unusual = len(port.dims) > 3 or (main is not None and port.dims and port.dtype != main.dtype)
        if len(twins) == 1:
            why, free, plain = "have one name but for the side they are on", twins, PLAIN
        elif unusual and len(free) == len(rivals) == 1:
            why = "alone share their shape and dtype, which other inputs have not"
            plain = DATA_WORDS - SIDES
        else:
            continue
        if len(data) > 1 and not any(set(words(name)) & plain for name in (port.name, free[0])):
            raise _doubtful(Pair(port.name, free[0], "", sure=False), inputs, pairs, why)


def _refuse_generic(
    rest: list[Port], outputs: dict[str, Port], fits: dict[str, list[str]], inputs: dict[str, Port], pairs: list[Pair]
) -> None:
    """Refuse where an input has a name that says nothing, and an output could feed it.

    The first input is asked about last, and only where another of the inputs left has such a name: it may be that one
    which clients send.
    """
    data = [name for name in inputs if name not in {pair.source for pair in pairs}]
    generic = [port.name for port in rest if is_generic(port.name)]
    asked = [name for name in generic if name != data[0]]
    if asked and data[0] in generic:
        asked.append(data[0])
    left = _left(rest, outputs, fits, pairs)
    candidates = {name: [target for target in left[name] if not set(words(target)) & PLAIN] for name in asked}
    _refuse_candidates(candidates, outputs, inputs, pairs)


def _doubtful(pair: Pair, inputs: dict[str, Port], pairs: list[Pair], why: str) -> UnsettledStatesError:
    source, target = pair.source, pair.target
    return UnsettledStatesError(
        f"the input {inputs[source]} and the output {target} {why}, so they may be a state",
        [f"a state {source}={target}", f"{source} is an input"],
        f"--state {source}={target} or --state {source}= (the last: {source} is no state)",
        _settled(pairs) | {source: target},
    )
