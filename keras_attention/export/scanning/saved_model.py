"""Reads a SavedModel as data: its operators, and what each of them is used for.

A SavedModel saves and restores its weights with operators that write and read files.
They are allowed only in the functions that the saver calls, and nothing else may call
these. Those that save must not run when the SavedModel is loaded, and those that
restore may read only the artifact's own checkpoint. A signature must not change a
variable or a table: the next client would receive what the one before sent.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_attention.export.scanning import allowed_operators as allowed
from keras_attention.export.scanning import limits
from keras_attention.export.scanning.graph_roles import (
    EXCHANGEABLE,
    Graph,
    operator_of,
    tensor_names,
)
from keras_attention.export.scanning.graph_sizes import (
    LOOPS,
    loop_problems,
    size_problems,
)

_ASSETS_COLLECTION = "saved_model_assets"


def inspect_saved_model(
    file: Path, most: int | None = None
) -> tuple[set[str], list[str]]:
    """Reads a `saved_model.pb`; returns `(operators, problems)`.

    Operators of nested functions are included.

    Args:
        file: The file.
        most: The largest tensor that the graph may make of constants, in bytes.
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
        names, wrong = _inspect_graph(graph, limits.max_bytes(most))
        operators |= names
        problems += wrong
    if not saved.meta_graphs:
        problems.append("it has no graph")
    return operators, problems


def _inspect_graph(meta: Any, most: int) -> tuple[set[str], list[str]]:
    graph = Graph(meta)
    functions = graph.functions.keys()
    operators = set().union(*graph.operators.values())
    # A node may call a function by its name, as if it were an operator.
    operators -= functions
    saving = allowed.SAVING | allowed.RESTORING
    known = allowed.TENSORFLOW | allowed.TENSORFLOW_TEXT | saving
    problems = [f"operator {name}" for name in operators - known]
    problems += [f"{name} is an operator and a function" for name in _hidden(functions)]
    problems += [
        f"function {name} uses files and can be exchanged with another"
        for name, one in graph.functions.items()
        if EXCHANGEABLE in one.attr and not saving.isdisjoint(graph.operators[name])
    ]
    saver = meta.saver_def
    save = operator_of(saver.save_tensor_name)
    load = operator_of(saver.restore_op_name)
    for kind, caller in ((allowed.SAVING, save), (allowed.RESTORING, load)):
        own = {
            name for name, used in graph.operators.items() if not kind.isdisjoint(used)
        }
        if "" in own:
            problems.append(f"one of {sorted(kind)} outside the saver's functions")
        own.discard("")
        callers = _callers(graph, own)
        # Only the saver may call these functions: no initialiser and no signature.
        wrong = callers - {caller}
        wrong |= own & _python_functions(meta.object_graph_def)
        problems += [f"{name} uses the files of the saver" for name in wrong]
        if caller and _is_used(meta, caller) and own:
            problems.append(f"{caller}, of the saver, is used by another operator")
    problems += _role_problems(graph) + _asset_problems(meta) + _node_problems(graph)
    if not graph.structure_problems():  # otherwise it has no order and no end
        problems += size_problems(graph, most) + loop_problems(graph)
    return operators, problems


def _node_problems(graph: Graph) -> list[str]:
    """Returns what single operators must not do, wherever they are."""
    problems = set()
    for body in graph.bodies.values():
        for node in body:
            if node.op == "Empty" and not node.attr["init"].b:
                # It may hold what another client sent.
                problems.add(
                    f"operator Empty {node.name}, of memory that is not cleared"
                )
            if "/job:" in node.device and "/job:localhost/" not in node.device:
                problems.add(f"operator {node.name} on another machine: {node.device}")
    return sorted(problems)


def _hidden(functions: Iterable[str]) -> set[str]:
    """Returns the functions with the name of an operator with a state or a file."""
    files = allowed.SAVING | allowed.RESTORING
    return {name for name in functions if name in files or _changes_state(name)}


def _role_problems(graph: Graph) -> list[str]:
    """Returns what the operators that load and those of the signatures must not do."""
    problems = graph.structure_problems()
    saver = graph.meta.saver_def
    save, load = operator_of(saver.save_tensor_name), saver.restore_op_name
    if save and save == operator_of(load):
        problems.append(f"{save} both saves and restores")
    files = allowed.SAVING | allowed.RESTORING
    for role, names, refused in (
        ("restoring", [load], allowed.SAVING | LOOPS),
        ("initialising", graph.initial(), files | LOOPS),
    ):
        used = graph.reached(names)
        problems += [f"operator {name} in {role}" for name in used & refused]
    for key, names in graph.signatures():
        used = graph.reached(names)
        problems += [f"operator {name} in the signature {key}" for name in used & files]
        problems += [
            f"operator {name} in the signature {key}: it keeps a state between calls"
            for name in used
            if _changes_state(name)
        ]
        inputs = graph.meta.signature_def[key].inputs.values()
        fed = {operator_of(name) for one in inputs for name in tensor_names(one)}
        path = operator_of(saver.filename_tensor_name)
        if path and path in fed:
            problems.append(f"the signature {key} takes the path of the saver")
    problems += [
        f"{name} reads a checkpoint that is not the one of the artifact"
        for name in graph.reads_of_other_files(allowed.RESTORING)
    ]
    return problems


def _changes_state(operator: str) -> bool:
    return operator.startswith(allowed.CHANGING_STATE)


def _asset_problems(meta: Any) -> list[str]:
    """Returns the assets whose files are not in the folder `assets`."""
    names = [one.filename for one in meta.asset_file_def]
    if _ASSETS_COLLECTION in meta.collection_def:
        return ["assets in a collection, which are not scanned"]
    return [
        f"asset {name!r} is not a path inside the folder"
        for name in names
        if not name or "\\" in name or {"", ".", ".."} & set(name.split("/"))
    ]


def _callers(graph: Graph, own: set[str]) -> set[str]:
    """Returns the nodes of the main graph and the functions that refer to `own`."""
    found = set()
    for name, calls in graph.calls.items():
        if own.isdisjoint(calls):
            continue
        if name:
            found.add(f"function {name}")
            continue
        body = graph.bodies[name]
        found |= {one.name for one in body if not own.isdisjoint(graph.called(one))}
    return found


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
