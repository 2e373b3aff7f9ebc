"""Sequences of calls that follow the OpenAPI document, made by schemathesis."""

from typing import Any

from tests.fuzz.results import ANSWER_SECONDS, Results

_STEPS = 20
"""Calls of one sequence."""


def call_statefully(url: str, count: int, results: Results) -> None:
    """Make about `count` calls; those that follow another one use what it has answered, such as a session's id."""
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, settings

    base: Any = schemathesis.openapi.from_url(f"{url}/openapi.json").as_state_machine()
    source = "OpenAPI"

    def call(self: Any, case: Any, **options: Any) -> Any:
        try:
            response = base.call(self, case, **options | {"timeout": ANSWER_SECONDS})
        except requests.Timeout:
            results.hung(source, repr(case).encode())
            raise
        results.answered(source, repr(case).encode(), response.status_code, response.content)
        return response

    def validate(self: Any, response: Any, case: Any, **options: Any) -> None:
        return  # the statuses are counted

    machine: Any = type("Machine", (base,), {"call": call, "validate_response": validate})
    while results.cases[source] < count:
        left = count - results.cases[source]
        machine.run(
            settings=settings(
                max_examples=max(1, left // _STEPS),
                stateful_step_count=_STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
        )
