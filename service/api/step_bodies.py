"""The bodies of steps, over HTTP and WebSockets: JSON, and raw tensors."""

from service.codec.codec import Codec
from service.engine.outputs import raw_outputs
from service.sessions.steps import StepRequest, StepResult
from service.settings import Settings


class StepBodies:
    """Reads and writes the bodies of steps within the limits of one request."""

    def __init__(self, settings: Settings) -> None:
        self._max_steps, self._max_elements = settings.step_steps, settings.step_elements

    def read_json(self, session_id: str, codec: Codec, body: bytes) -> StepRequest:
        """Read {"inputs": …, "step": n, "epoch": n}; raises MalformedJson, InvalidInput."""
        return StepRequest(session_id, *codec.decode_steps(body, self._max_steps, self._max_elements))

    def read_raw(
        self, session_id: str, codec: Codec, body: bytes, number: int = 0, epoch: int | None = None
    ) -> StepRequest:
        """Read a raw tensor (steps, *shape), whose first step has the index `number`, 0 for none.

        Raises:
            InvalidInput: The bytes are not whole steps of finite numbers, or the model has several inputs or outputs.
        """
        return StepRequest(session_id, *codec.decode_binary(body, self._max_steps, self._max_elements), number, epoch)

    @staticmethod
    def write_json(result: StepResult) -> bytes:
        """Return {"outputs": …, "step": n, "replayed": …}."""
        return b'{"outputs":%b,"step":%d,"replayed":%b}' % (
            result.model.codec.encode_steps(result.outputs),
            result.last_step,
            b"true" if result.replayed else b"false",
        )

    @staticmethod
    def write_raw(result: StepResult) -> bytes:
        """Return the outputs as a raw tensor (steps, *shape)."""
        return raw_outputs(result.outputs)
