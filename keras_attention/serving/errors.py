"""The errors of requests: gRPC's codes, and the HTTP status of each."""

from keras_attention import untrusted

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
MAX_ERROR = 2000


def printable(text: object, most: int = MAX_ERROR) -> str:
    r"""Return untrusted text for a log line or an error: one line of limited length.

    Control characters and other characters that are not visible are escaped, as in
    `\n` and `\x1b`.

    Args:
        text: The text, or an object that `str` converts.
        most: The largest number of characters.
    """
    text = str(text)
    safe = untrusted.printable(text[:most])
    if len(safe) <= most and len(text) <= most:
        return safe
    end = f" … [{len(text)} characters]"
    return safe[: most - len(end)] + end


class ServingError(Exception):
    """A request that fails, with the reason for the client.

    Args:
        code: A name in `HTTP_STATUS`.
        message: The text that the client receives. It is made printable and cut to
            2,000 characters: it may quote the request.
        status: The status of the HTTP response, if it is not that of the code.
    """

    def __init__(self, code: str, message: str, *, status: int | None = None) -> None:
        self.code = code
        self.message = printable(message)
        self.http_status = status or HTTP_STATUS[code]
        super().__init__(self.message)

    @property
    def headers(self) -> dict[str, str]:
        """Further headers of the HTTP response."""
        return {"Retry-After": "1"} if self.http_status == 503 else {}


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
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}")
