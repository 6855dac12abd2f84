"""The errors of requests: gRPC's codes, and the HTTP status of each."""

# The same mapping as TF Serving's.
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
    """A request that fails, with the reason for the client.

    Args:
        code: A name in `HTTP_STATUS`.
        message: The text that the client receives.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The status of the HTTP response."""
        return HTTP_STATUS[self.code]


def invalid(message: str) -> ServingError:
    """The error of a request that does not fit the model."""
    return ServingError("INVALID_ARGUMENT", message)


def as_serving_error(error: BaseException) -> ServingError:
    """The error that the client receives for any exception."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, ValueError):  # from `SignatureInfo`, or from a graph
        return invalid(str(error))
    if isinstance(error, TimeoutError):
        return ServingError("DEADLINE_EXCEEDED", str(error))
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}"[:1000])
