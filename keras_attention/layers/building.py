"""Building of layers that several threads call for the first time."""

import functools
import threading
from collections.abc import Callable
from typing import Any

# One lock for all layers: a block builds its parts, and two blocks may share one.
_BUILDING = threading.RLock()


def built_once(build: Callable) -> Callable:
    """Decorates a layer's `build`, so that only one thread runs it, and only once.

    Args:
        build: The method. Keras may call it in several threads, because a layer counts
            as built only when its `build` has ended.
    """

    @functools.wraps(build)
    def build_in_turn(layer: Any, *args: Any, **kwargs: Any) -> None:
        with _BUILDING:
            if not layer.built:
                build(layer, *args, **kwargs)

    return build_in_turn
