"""Chat templates: messages as the text that a model was trained on.

A template is code of whoever made the folder. It runs in Jinja's sandbox with what
transformers gives it, sees plain copies of the messages, and has a limit of steps and
of characters, so that it cannot run for ever or fill the memory.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from keras_attention import untrusted
from keras_attention.text import json_files, sandbox

FILE, MORE = "chat_template.jinja", "additional_chat_templates"
MAX_BYTES = 1 << 20  # of a template; the largest of today have 30,000
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one entry
P = ParamSpec("P")
T = TypeVar("T")


def with_templates(load: Callable[P, T]) -> Callable[P, T]:
    """Returns a function that loads a tokenizer with the templates of its folder.

    Args:
        load: A function of a folder that returns a tokenizer.
    """

    @functools.wraps(load)
    def loaded(*args: P.args, **kwargs: P.kwargs) -> T:
        tokenizer: Any = load(*args, **kwargs)
        folder: Any = args[0] if args else kwargs["folder"]
        tokenizer.chat_templates = read(pathlib.Path(folder))
        return tokenizer

    return loaded


def read(folder: pathlib.Path) -> dict[str, str]:
    """Returns the chat templates of a folder by name; the usual one is `"default"`.

    Args:
        folder: A folder that may hold a chat_template.jinja, other templates in
            additional_chat_templates, or a `chat_template` in tokenizer_config.json.
    """
    settings = json_files.read_optional_json(folder / json_files.SETTINGS_FILE)
    found = settings.get("chat_template") or {}
    if isinstance(found, str):
        found = {"default": found}
    elif isinstance(found, list):
        with untrusted.reading(folder / json_files.SETTINGS_FILE):
            found = {each["name"]: each["template"] for each in found}
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(text, str) for name, text in found.items()
    ):
        json_files.refuse("chat_template", "a text, or texts by name", found)
    found = dict(found)
    for path in [folder / FILE, *sorted((folder / MORE).glob("*.jinja"))]:
        if path.is_file():
            name = "default" if path.name == FILE else path.stem
            untrusted.inside(folder, str(path.relative_to(folder)), FILE)
            found[name] = untrusted.read_bytes(path, MAX_BYTES).decode("utf-8")
    return found


def entry(templates: Mapping[str, str]) -> dict[str, Any]:
    """Returns the entry of tokenizer_config.json that `read` and transformers read.

    Args:
        templates: The templates by name.
    """
    if [*templates] == ["default"]:
        return {"chat_template": templates["default"]}
    listed = [{"name": name, "template": text} for name, text in templates.items()]
    return {"chat_template": listed}


def chosen(
    templates: Mapping[str, str], name: str | None, tools: Sequence[Any] | None
) -> str:
    """Returns the template of a name, or the one for these messages.

    Args:
        templates: The tokenizer's templates by name.
        name: A name, a template itself, or `None`.
        tools: The tools of the conversation, or `None`.
    """
    if name is not None:
        return templates.get(name, name)
    if tools is not None and "tool_use" in templates:
        return templates["tool_use"]
    if "default" in templates:
        return templates["default"]
    raise ValueError(
        "The tokenizer has no default chat template. Pass `chat_template=`, a template "
        "or the name of one, or load a tokenizer from a folder with a "
        f"{FILE}. Received: templates {', '.join(templates) or 'none'}"
    )


def render(template: str, messages: Any, **variables: Any) -> str:
    """Returns the text of a conversation.

    Args:
        template: A Jinja template.
        messages: The messages, each a dict.
        **variables: What the template sees in addition, such as `bos_token`.
    """
    rows = [_plain(message) for message in messages]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            "A conversation must be a list of one or more messages, each a dict of "
            f"`role` and `content`. Received: {untrusted.show(messages)}"
        )
    rows = [_aliased({k: v for k, v in row.items() if v is not None}) for row in rows]
    roles = untrusted.clip([row.get("role") for row in rows])
    given = {**_plain(variables), "messages": rows}
    return sandbox.render(template, given, f"roles {roles}")


def _aliased(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message whose reasoning has all names that templates read."""
    found = [message[name] for name in _REASONING if message.get(name) is not None]
    if not found:
        return message
    return {"thinking": found[0], **message, "reasoning_content": found[0]}


def _plain(value: Any) -> Any:
    """Returns a copy of JSON's types only: other objects have methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"
