"""Which outputs are fed back to which inputs: by name, shape and dtype; a later run shows whether it matters."""

from collections.abc import Callable
from dataclasses import dataclass

from export.adopt.errors import AmbiguousError, BadOptionError, NotServableError
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
    stem,
    timeless,
    untimed,
    words,
)
from export.adopt.options import AdoptOptions


@dataclass(frozen=True, slots=True)
class Pair:
    """An input, the output that is fed back to it, and why."""

    source: str
    target: str
    reason: str
    sure: bool = True
    """Whether names say so; a pair by shape alone must be confirmed by a run."""


def find_pairs(inputs: dict[str, Port], outputs: dict[str, Port], options: AdoptOptions) -> tuple[Pair, ...]:
    """Pair states: those that the user names first, then those for which only one pair is possible.

    Raises:
        BadOptionError: An option names no input or output.
        AmbiguousError: An output could feed an input, and names do not say whether, or which of several does.
        NotServableError: A pair given by the user or by names has different shapes or dtypes.
    """
    pairs = [_given_pair(source, target, inputs, outputs) for source, target in options.states.items() if target]
    settled = set(options.states) | set(options.constants) | set(options.steps) | set(options.overlaps)
    open_inputs = [port for name, port in inputs.items() if name not in settled]
    free = {name: port for name, port in outputs.items() if name not in {pair.target for pair in pairs}}
    fits = {port.name: [name for name, out in free.items() if fitting(port, out)] for port in open_inputs}

    for key in (timeless, bare_key, untimed):
        pairs += _by_name(open_inputs, fits, {pair.source for pair in pairs}, {pair.target for pair in pairs}, key)
    _refuse_misfits(open_inputs, list(free.values()), pairs)

    while lone := [pair for pair in _lone(open_inputs, outputs, fits, pairs) if pair.sure]:
        pairs += lone
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
            raise _doubtful((likely or lone)[0], inputs, "alone share their shape and dtype")
        pairs.append(likely[0])

    sources = {pair.source for pair in pairs}
    rest = [port for port in open_inputs if port.name not in sources]
    if len(inputs) - len(pairs) > 1 or any(is_state(port.name) for port in rest):
        _refuse_open(_left(rest, outputs, fits, pairs), outputs, inputs)
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
        Pair(name, found[0], *_reason(name, found[0]))
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


def _refuse_open(left: dict[str, list[str]], outputs: dict[str, Port], inputs: dict[str, Port]) -> None:
    """Refuse where an input that is not named as data may be fed from several outputs, and nothing decides."""
    _refuse_candidates(
        {
            name: found if is_state(name) else [target for target in found if not is_data(target)]
            for name, found in left.items()
            if not is_data(name)
        },
        outputs,
        inputs,
    )


def _refuse_candidates(candidates: dict[str, list[str]], outputs: dict[str, Port], inputs: dict[str, Port]) -> None:
    for name, found in candidates.items():
        if found:
            options = " or ".join(f"--state {name}={target}" for target in [*found, ""])
            raise AmbiguousError(
                f"the input {inputs[name]} may be a state, fed from any of",
                [str(outputs[target]) for target in found],
                f"{options} (the last: {name} is no state)",
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
            raise _doubtful(Pair(port.name, free[0], "", sure=False), inputs, why)


def _refuse_generic(
    rest: list[Port], outputs: dict[str, Port], fits: dict[str, list[str]], inputs: dict[str, Port], pairs: list[Pair]
) -> None:
    """Refuse where an input other than the first has a name that says nothing, and an output could feed it."""
    data = [name for name in inputs if name not in {pair.source for pair in pairs}]
    candidates = {
        name: [target for target in found if not set(words(target)) & PLAIN]
        for name, found in _left(rest, outputs, fits, pairs).items()
        if name != data[0] and is_generic(name)
    }
    _refuse_candidates(candidates, outputs, inputs)


def _doubtful(pair: Pair, inputs: dict[str, Port], why: str) -> AmbiguousError:
    source, target = pair.source, pair.target
    return AmbiguousError(
        f"the input {inputs[source]} and the output {target} {why}, so they may be a state",
        [f"a state {source}={target}", f"{source} is an input"],
        f"--state {source}={target} or --state {source}= (the last: {source} is no state)",
    )
