"""Refusals and questions where names and shapes do not say which outputs are fed back to which inputs."""

from export.adopt.errors import NotServableError, UnsettledStatesError
from export.adopt.foreign_model import Port
from export.adopt.names import (
    DATA_WORDS,
    DRIVING,
    PLAIN,
    SIDES,
    is_data,
    is_generic,
    is_state,
    names_one_state,
    says_data,
    stem,
    words,
)
from export.adopt.naming_rules import shared_rules
from export.adopt.pairing import Pair, fitting, left_of, settled_of


def refuse_misfits(inputs: list[Port], outputs: list[Port], pairs: list[Pair]) -> None:
    """Refuse where a state's input and an output agree by name alone: such a state would never change."""
    sources, targets = {pair.source for pair in pairs}, {pair.target for pair in pairs}
    for port in inputs:
        named = [out for out in outputs if out.name not in targets and names_one_state(port.name, out.name)]
        if port.name not in sources and named and not any(fitting(port, out) for out in named):
            raise NotServableError(
                f"the input {port} and the output {named[0]} are one state by their names, but not by shape and dtype, "
                f"which a state must keep from step to step. If {port.name} is no state, say so by --state {port.name}="
            )


def refuse_named_by_one_rule(
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
                settled_of(pairs) | group,
            )


def refuse_open(
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
    likely = settled_of(pairs)
    for name, found in doubtful.items():
        likely[name] = next((target for target in found if target not in likely.values()), "")
    if doubtful and all(likely.get(name) for name in inputs):
        likely[min(doubtful, key=list(inputs).index)] = ""  # something must be left for clients to send
    for name, found in doubtful.items():
        raise unsettled(inputs[name], "may be a state", [outputs[target] for target in found], "is no state", likely)


def unsettled(port: Port, what: str, fits: list[Port], otherwise: str, likely: dict[str, str]) -> UnsettledStatesError:
    """Return the question which of the outputs that fit feeds an input, or whether none does."""
    ways = " or ".join(f"--state {port.name}={target}" for target in [*(one.name for one in fits), ""])
    return UnsettledStatesError(
        f"the input {port} {what}, fed from any of",
        [str(one) for one in fits],
        f"{ways} (the last: {port.name} {otherwise})",
        likely,
    )


def refuse_unusual(rest: list[Port], fits: dict[str, list[str]], inputs: dict[str, Port], pairs: list[Pair]) -> None:
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
            raise doubtful_pair(Pair(port.name, free[0], "", sure=False), inputs, pairs, why)


def refuse_generic(
    rest: list[Port], outputs: dict[str, Port], fits: dict[str, list[str]], inputs: dict[str, Port], pairs: list[Pair]
) -> None:
    """Refuse where an input has a name that says nothing, and an output could feed it.

    The first input is asked about last, and only where it may be another that clients send: where one more of the
    inputs left has such a name, or where one is named as what drives or measures a system, whose state is often x.
    """
    data = [name for name in inputs if name not in {pair.source for pair in pairs}]
    generic = [port.name for port in rest if is_generic(port.name)]
    asked = [name for name in generic if name != data[0]]
    driven = not pairs and any(set(words(name)) & DRIVING for name in data[1:])
    if (asked or driven) and data[0] in generic:
        asked.append(data[0])
    left = left_of(rest, outputs, fits, pairs)
    candidates = {name: [target for target in left[name] if not set(words(target)) & PLAIN] for name in asked}
    _refuse_candidates(candidates, outputs, inputs, pairs)


def doubtful_pair(pair: Pair, inputs: dict[str, Port], pairs: list[Pair], why: str) -> UnsettledStatesError:
    source, target = pair.source, pair.target
    return UnsettledStatesError(
        f"the input {inputs[source]} and the output {target} {why}, so they may be a state",
        [f"a state {source}={target}", f"{source} is an input"],
        f"--state {source}={target} or --state {source}= (the last: {source} is no state)",
        settled_of(pairs) | {source: target},
    )
