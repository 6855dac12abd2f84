"""Checks a request before any runtime sees it.

`SignatureInfo` of the manifest checks what the model takes, as it does in every runtime
and graph. This module adds the limits of the server.
"""

from dataclasses import dataclass
from typing import Any

from keras_attention.export.artifact.description import SignatureInfo
from keras_attention.serving.errors import invalid


@dataclass(frozen=True)
class Limits:
    """The limits of the server.

    Attributes:
        max_body_bytes: The size of an HTTP body or a gRPC message.
        max_batch: The number of rows.
        max_length: The size of every other free axis for which the model has no limit.
        max_pending: The number of requests that wait or run, all together.
        timeout_seconds: The time from a request's last byte to its answer. The body
            must arrive in the same time.
        max_connections: The number of open HTTP connections, at most half of the files
            that the process may open. Above it, the oldest connection without a
            complete request is closed.
        header_timeout: The seconds in which a request's header must be complete.
        max_waiting_bytes: The size of all HTTP bodies that wait or run, without the
            first 64 KiB of each.
    """

    max_body_bytes: int = 16 * 1024 * 1024
    max_batch: int = 1024
    max_length: int = 8192
    max_pending: int = 512
    timeout_seconds: float = 30.0
    max_connections: int = 256
    header_timeout: float = 10.0
    max_waiting_bytes: int = 256 * 1024 * 1024


def check_request(
    name: str, signature: SignatureInfo, arrays: dict[str, Any], limits: Limits
) -> None:
    """Refuse arrays that do not fit a signature, or exceed the server's limits.

    Args:
        name: The signature's name.
        signature: Its entry in the manifest.
        arrays: Name to NumPy array, text as objects.
        limits: The server's limits.
    """
    signature.fit(name, arrays, exact=True)
    for axis, ((key, position), *_) in signature.free_axes.items():
        if axis == "batch":
            limit, what = limits.max_batch, "rows this server takes at once"
        elif axis in signature.max_lengths:
            limit, what = signature.max_lengths[axis], "positions of this model"
        else:
            limit, what = limits.max_length, "entries this server takes"
        size = arrays[key].shape[position]
        if not 1 <= size <= limit:
            raise invalid(
                f"Input '{key}' has a {axis} size outside the 1 to {limit} {what}. "
                f"Received: {size}"
            )
