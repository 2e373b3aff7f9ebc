"""The sentences that tell how a foreign model was understood."""

from export.adopt.plan import Plan


def findings(plan: Plan, effects: dict[str, float]) -> list[str]:
    """Return a sentence for each state, input, output and constant; `effects` are by the states' inputs."""
    lines = []
    for state in plan.states:
        effect = effects[state.source]
        seen = (
            f"feeding it back changes the outputs by {effect:.2g} of their size"
            if effect
            else "in the runs made here feeding it back changed nothing"
        )
        batch = "no batch axis" if state.layout.batch is None else f"batch on axis {state.layout.batch}"
        lines.append(
            f"state {state.source} ← {state.target}: {state.spec.dtype}{list(state.spec.shape)}, {batch}; "
            f"{state.reason}; {seen}"
        )
    if not plan.state_specs:
        lines.append("no state: the model is served stateless")
    for one in plan.inputs:
        extra = (
            f", preceded by the last {one.overlap} of the step before (state {one.overlap_state})"
            if one.overlap
            else ""
        )
        ids = f", ids below {one.spec.vocabulary}" if one.spec.vocabulary else ""
        lines.append(f"input {one.name}: a step is {one.spec.dtype}{list(one.spec.shape)}{ids}{extra}")
    lines += [f"output {one.name}: a step gives {one.spec.dtype}{list(one.spec.shape)}" for one in plan.outputs]
    lines += [f"constant {name} = {value.tolist()}" for name, value in plan.constants.items()]
    lines.append(
        "the graph runs several steps at once by itself"
        if plan.native_time
        else "the graph runs one step: a Scan carries it over the steps of a request"
    )
    return lines
