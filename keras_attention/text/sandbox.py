"""Jinja's sandbox for templates that somebody else wrote, with limits of their work.

It is the sandbox of transformers: the same settings, filters and functions. In addition
a template has a limit of steps and of characters, because a sandbox alone lets it run
for ever and fill the memory.
"""

import contextvars
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_attention import untrusted

MAX_STEPS = 1_000_000  # lines of Python of a compiled template
MAX_SECONDS = 1.5  # of the processor; a conversation takes a few milliseconds
MAX_TEXT = 20_000_000  # characters that a template writes and joins
MAX_NUMBER = 1_000_000  # of an argument of a filter or a method
# How many characters the template that runs now may still make.
_left: contextvars.ContextVar[list[int] | None]
_left = contextvars.ContextVar("characters left", default=None)


def render(template: str, variables: Mapping[str, Any], received: str) -> str:
    """Returns the text that a template makes.

    Args:
        template: A Jinja template.
        variables: What it sees: values of JSON's types.
        received: What it was given, for errors.
    """
    compiled, errors = _compiled(template)
    token = _left.set([MAX_TEXT])
    try:
        return _limited(lambda: compiled.render(**variables))
    except errors as error:
        raise ValueError(
            f"The template refuses what it was given: {untrusted.clip(error, 600)}. "
            f"Received: {received}"
        ) from error
    finally:
        _left.reset(token)


def _limited(run: Callable[[], str]) -> str:
    """Runs a template with a limit of steps: its loops are Python's."""
    left, before = MAX_STEPS, sys.gettrace()
    end = time.thread_time() + MAX_SECONDS

    def trace(frame, event, argument):
        nonlocal left
        left -= 1
        if left < 0:
            raise _too_much(f"ran for more than {MAX_STEPS:,} steps")
        if left % 16 == 0 and time.thread_time() > end:  # a step may be long
            raise _too_much(f"ran for more than {MAX_SECONDS} seconds")
        return trace

    sys.settrace(trace)
    try:
        return run()
    finally:
        sys.settrace(before)


def _too_much(what: str) -> Exception:
    import jinja2

    return jinja2.exceptions.SecurityError(f"it {what}; it may be hostile")


def _counted(value: Any) -> Any:
    """Returns a value that a template writes or joins, and counts its characters."""
    left = _left.get()
    if left is not None and isinstance(value, str):
        left[0] -= len(value)
        if left[0] < 0:
            raise _too_much(f"made more than {MAX_TEXT:,} characters")
    return value


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 1


def _check_arguments(name: str, values: Sequence[Any]) -> None:
    """Refuses arguments of a filter or a method that would make a huge text."""
    numbers = [abs(x) for x in values if isinstance(x, int)]
    sizes = 1
    for value in values:
        sizes *= max(_size(value), 1)
    if max(numbers, default=0) > MAX_NUMBER or sizes > 100 * MAX_TEXT:
        raise _too_much(f"called {name} with huge arguments")
    if "format" in name and any(
        isinstance(x, str) and re.search(r"[0-9]{7}|\*", x) for x in values
    ):
        raise _too_much(f"called {name} with a huge width")


def _check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuses sums, products and powers that would be huge."""
    if operator == "+":
        is_huge = _size(left) + _size(right) > MAX_TEXT
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * (abs(right) if operator == "**" else 1)
        is_huge = operator in ("*", "**") and bits + right.bit_length() > 4096
    elif operator == "*":
        counts = [x for x in (left, right) if isinstance(x, int)]
        is_huge = _size(left) * _size(right) * max(counts, default=1) > MAX_TEXT
    else:
        is_huge = False
    if is_huge:
        raise _too_much(f"computed a huge value with {operator}")
    if operator == "%" and isinstance(left, str):
        _check_arguments("format", [left])


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Returns a compiled template, and the errors of a template."""
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
    except ImportError as error:
        raise ImportError(
            "Chat templates need Jinja2 of 3.1.6 or more: "
            'pip install "keras-attention-layers[chat]". Received: no jinja2'
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3])
    if version < (3, 1, 6):
        raise ImportError(
            "Older versions of Jinja2 have holes in their sandbox: "
            'pip install "keras-attention-layers[chat]". '
            f"Received: jinja2=={jinja2.__version__}"
        )
    errors = (jinja2.exceptions.TemplateError, TypeError, RecursionError, OverflowError)
    try:
        return _environment().from_string(template), errors
    except jinja2.exceptions.TemplateError as error:
        raise ValueError(
            f"The chat template cannot be read: {untrusted.clip(error, 600)}. "
            f"Received: chat_template={untrusted.show(template)}"
        ) from error


def _environment() -> Any:
    import jinja2
    from jinja2 import ext

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    made = _sandbox()(
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_counted,
        extensions=[_generation(), ext.loopcontrols],
    )
    made.filters = {name: _guarded(name, f) for name, f in made.filters.items()}
    made.filters |= {"tojson": _tojson, "counted": _counted}
    made.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": _now,
        "dict": _dict,
        "namespace": _namespace(),
    }
    return made


def _sandbox() -> Any:
    """Returns the class of the environment: it limits what an operation makes."""
    from jinja2 import nodes, sandbox

    class Environment(sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def call_binop(self, context, operator, left, right):
            _check_operator(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context, obj, *args, **kwargs):
            own = getattr(obj, "__self__", None)
            if isinstance(own, str):
                given = [own, *args, *kwargs.values()]
                _check_arguments(getattr(obj, "__name__", "a method"), given)
            return super().call(context, obj, *args, **kwargs)

        def wrap_str_format(self, value):
            wrapped = super().wrap_str_format(value)
            if wrapped is None:
                return None
            own = getattr(value, "__self__", "")

            @functools.wraps(wrapped)
            def checked(*args, **kwargs):
                _check_arguments("format", [own, *args, *kwargs.values()])
                return wrapped(*args, **kwargs)

            return checked

        def _parse(self, source, name, filename):
            tree = super()._parse(source, name, filename)
            for node in tree.find_all(nodes.Concat):
                node.nodes = [
                    nodes.Filter(each, "counted", [], [], None, None)
                    for each in node.nodes
                ]
            return tree

    return Environment


def _generation() -> Any:
    """Returns the extension for `{% generation %}`, around what a model says."""
    from jinja2 import ext, nodes

    class Generation(ext.Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_said")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _said(self, caller):
            return caller()

    return Generation


def _namespace() -> Any:
    """Returns the class of `namespace(…)`, without names that begin with "_"."""
    import jinja2

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, given = args[0], dict(*args[1:], **kwargs)
            jinja2.utils.Namespace.__init__(self, {})
            for name, value in given.items():
                self[name] = value

        def __setitem__(self, name, value):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"it sets {name!r}")
            super().__setitem__(name, value)

    return Namespace


def _dict(*args: Any, **kwargs: Any) -> dict:
    return dict(*args, **kwargs)  # the class itself has attributes


def _guarded(name: str, function: Callable) -> Callable:
    @functools.wraps(function)  # with its marks of what Jinja passes first
    def guarded(*args, **kwargs):
        _check_arguments(name, [*args, *kwargs.values()])
        return function(*args, **kwargs)

    return guarded


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Without Jinja's escapes of HTML, as in transformers."""
    _check_arguments("tojson", [indent or 0])
    return json.dumps(
        x,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _now(form: str) -> str:
    from datetime import datetime

    _check_arguments("format", [form])
    return datetime.now().strftime(form)
