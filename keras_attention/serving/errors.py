"""What a request can end with: gRPC's codes, and the HTTP status of each."""

from typing import Any

# As TF Serving maps them.
HTTP_STATUS = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class ServingError(Exception):
    """A request that is not answered, with the reason for the client.

    Args:
        code: A name in `HTTP_STATUS`.
        message: What the client reads.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The status of the HTTP answer."""
        return HTTP_STATUS[self.code]


def invalid(message: str) -> ServingError:
    """The error of a request that does not fit the model."""
    return ServingError("INVALID_ARGUMENT", message)


def misfit(name: str, expected: Any, received: Any) -> ServingError:
    """The error of an input that does not fit; it names the input."""
    return invalid(
        f"Input '{name}' does not fit. Expected: {expected}. Received: {received}"
    )


def as_serving_error(error: BaseException) -> ServingError:
    """Any exception of an answer as what the client is told."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, ValueError):  # a runner's, or an assertion in the graph
        return invalid(str(error))
    if isinstance(error, TimeoutError):
        return ServingError("DEADLINE_EXCEEDED", str(error))
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}"[:1000])
