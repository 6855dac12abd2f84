"""Named regions: the whole coupling between the maths and the exporters.

`region("attention", function, query, key, ...)` calls `function` and nothing
else. While an exporter is tracing it installs an interceptor, which sees the
region's name, tensors and settings and may turn the call into one operator of
the target format. Layers never learn that they are being exported.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

Interceptor = Callable[[str, Callable, tuple, dict], Any]

_interceptor: ContextVar[Interceptor | None] = ContextVar("interceptor", default=None)


def region(name: str, function: Callable, /, *tensors: Any, **settings: Any) -> Any:
    """Calls `function(*tensors, **settings)` under a name exporters know.

    Args:
        name: What the region computes, e.g. `"attention"`.
        function: A pure function: no weights, no state, no side effects.
        *tensors: Its tensor arguments; `None` for one that is absent.
        **settings: Its JSON-serialisable keyword arguments.

    Returns:
        What `function` returns: a tensor or a tuple of tensors.
    """
    interceptor = _interceptor.get()
    if interceptor is None:
        return function(*tensors, **settings)
    return interceptor(name, function, tensors, settings)


@contextlib.contextmanager
def intercepting(interceptor: Interceptor) -> Iterator[None]:
    """Hands every region called inside the block to `interceptor`.

    Args:
        interceptor: Called as `interceptor(name, function, tensors, settings)`;
            returns what the region is to return.
    """
    token = _interceptor.set(interceptor)
    try:
        yield
    finally:
        _interceptor.reset(token)
