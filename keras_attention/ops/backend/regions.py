"""Named regions: the only coupling between the mathematics and the exporters.

`region("attention", function, query, key, ...)` just calls `function`. While an
exporter traces a model, it installs an interceptor. The interceptor gets the name, the
tensors and the settings of the region, and can replace the call by one operator of the
target format. Layers do not depend on whether they are being exported.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

Interceptor = Callable[[str, Callable, tuple, dict], Any]

_interceptor: ContextVar[Interceptor | None] = ContextVar("interceptor", default=None)


def region(name: str, function: Callable, /, *tensors: Any, **settings: Any) -> Any:
    """Calls `function(*tensors, **settings)` under a name that exporters know.

    Args:
        name: The name of the computation, e.g. `"attention"`.
        function: A pure function: no weights, no state, no side effects.
        *tensors: The function's tensor arguments; `None` for an absent one.
        **settings: The function's JSON-serialisable keyword arguments.

    Returns:
        The result of `function`: a tensor or a tuple of tensors.
    """
    interceptor = _interceptor.get()
    if interceptor is None:
        return function(*tensors, **settings)
    return interceptor(name, function, tensors, settings)


@contextlib.contextmanager
def intercepting(interceptor: Interceptor) -> Iterator[None]:
    """Passes every region that is called inside the block to `interceptor`.

    Args:
        interceptor: Called as `interceptor(name, function, tensors, settings)`;
            returns the result of the region.
    """
    token = _interceptor.set(interceptor)
    try:
        yield
    finally:
        _interceptor.reset(token)
