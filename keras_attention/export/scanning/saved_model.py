"""Reads a SavedModel as data: its operators, and who uses the files of the saver.

A SavedModel restores its weights with operators that read and write files. They are
allowed only in the functions that the saver calls, and nothing else may call these.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_attention.export.scanning import allowed_operators as allowed


def inspect_saved_model(file: Path) -> tuple[set[str], list[str]]:
    """Reads a `saved_model.pb`; returns `(operators, problems)`.

    Operators of nested functions are included.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2  # pyright: ignore

    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except DecodeError as error:
        return set(), [f"it is not a SavedModel ({error})"]
    operators: set[str] = set()
    problems: list[str] = []
    for graph in saved.meta_graphs:
        names, wrong = _inspect_graph(graph)
        operators |= names
        problems += wrong
    if not saved.meta_graphs:
        problems.append("it has no graph")
    return operators, problems


def _inspect_graph(meta: Any) -> tuple[set[str], list[str]]:
    library = meta.graph_def.library
    functions = {one.signature.name: one.node_def for one in library.function}
    operators = {node.op for node in meta.graph_def.node}
    for nodes in functions.values():
        operators |= {node.op for node in nodes}
    # A node may call a function by its name, as if it were an operator.
    operators -= functions.keys()
    saving = allowed.SAVING | allowed.RESTORING
    known = allowed.TENSORFLOW | allowed.TENSORFLOW_TEXT | saving
    problems = [f"operator {name}" for name in operators - known]
    saver = meta.saver_def
    save = saver.save_tensor_name.partition(":")[0]
    load = saver.restore_op_name
    for kind, caller in ((allowed.SAVING, save), (allowed.RESTORING, load)):
        if any(node.op in kind for node in meta.graph_def.node):
            problems.append(f"one of {sorted(kind)} outside the saver's functions")
        own = {n for n, nodes in functions.items() if any(x.op in kind for x in nodes)}
        callers = _callers(meta.graph_def.node, functions, own)
        # Only the saver may call these functions: no initialiser and no signature.
        wrong = callers - {caller}
        wrong |= own & _python_functions(meta.object_graph_def)
        problems += [f"{name} uses the files of the saver" for name in wrong]
        if caller and _is_used(meta, caller) and own:
            problems.append(f"{caller}, of the saver, is used by another operator")
    return operators, problems


def _callers(nodes: Iterable[Any], functions: dict[str, Any], own: set[str]):
    """Returns the nodes of the main graph and the functions that refer to `own`."""
    found = {node.name for node in nodes if _refers(node, own)}
    for name, body in functions.items():
        if any(_refers(node, own) for node in body):
            found.add(f"function {name}")
    return found


def _refers(node: Any, functions: set[str]) -> bool:
    if node.op in functions:
        return True
    for value in node.attr.values():
        named = [value.func, *value.list.func]
        if any(one.name in functions for one in named):
            return True
    return False


def _python_functions(objects: Any) -> set[str]:
    """Returns the functions that `tf.saved_model.load` exposes to Python.

    Initialisers are among them.
    """
    found = set(objects.concrete_functions)
    for node in objects.nodes:
        found.add(node.bare_concrete_function.concrete_function_name)
        found |= set(node.function.concrete_functions)
    return found


def _is_used(meta: Any, name: str) -> bool:
    """Whether another operator, a signature or a collection uses this operator."""
    inputs = {
        text.removeprefix("^").partition(":")[0]
        for node in meta.graph_def.node
        for text in node.input
    }
    signed = {
        info.name.partition(":")[0]
        for signature in meta.signature_def.values()
        for side in (signature.inputs, signature.outputs)
        for info in side.values()
    }
    run = {
        text.partition(":")[0]
        for collection in meta.collection_def.values()
        for text in collection.node_list.value
    }
    return name in inputs | signed | run
