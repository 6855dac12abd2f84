"""Structured changes of a SavedModel's graph, drawn at random.

Each change keeps a graph that mostly loads: operators are wired to other operators of
their function, functions are exchanged with others, and what an artifact says about
itself (its saver, initialisers, signatures, assets) names other parts of it.
"""

import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from google.protobuf.message import Message

HOSTILE = (
    *("WriteFile", "ReadFile", "SaveV2", "RestoreV2", "MergeV2Checkpoints"),
    *("ShardedFilename", "PrintV2", "EagerPyFunc", "AssignVariableOp", "Empty"),
    *("AssignAddVariableOp", "ReadVariableOp", "LookupTableImportV2", "Identity"),
    *("LookupTableInsertV2", "MutableHashTableV2", "NoOp", "VarHandleOp", "While"),
    *("StatefulPartitionedCall", "PartitionedCall", "StringJoin", "Placeholder"),
    *("Fill", "Tile", "Range", "DynamicStitch", "TensorListReserve"),
)
INIT_KEYS = ("saved_model_main_op", "legacy_init_op", "variables", "saved_model_assets")
NUMBERS = (0, 1, -1, 2, 3, 7, 1 << 20, 1 << 31, 1 << 40, -(1 << 31))


class Mutator:
    """Draws changes of one graph.

    Args:
        chance: The random numbers.
        paths: Files outside of the artifact, for constants and names of files.
    """

    def __init__(self, chance: random.Random, paths: list[str]) -> None:
        self._chance, self._paths = chance, paths

    def mutate(self, saved: Any) -> list[str]:
        """Changes the SavedModel in place; returns the names of the changes."""
        done = []
        for _ in range(self._chance.choice((1, 1, 2, 2, 3, 4))):
            change = self._chance.choice(CHANGES)
            if change(self, self._chance.choice(saved.meta_graphs)):
                done.append(change.__name__.strip("_"))
        if self._chance.random() < 0.9:
            for meta in saved.meta_graphs:
                _repair(meta)
        return done

    def pick(self, values) -> Any:
        """Draws one of the values, or None if there is none."""
        values = list(values)
        return self._chance.choice(values) if values else None

    def scope(self, meta) -> tuple[Any, Any]:
        """Draws the main graph or a function: `(its nodes, the function or None)`."""
        graph = meta.graph_def
        function = self.pick([None, *graph.library.function])
        return (graph.node if function is None else function.node_def), function

    def tensor(self, nodes, function, kind=None) -> str:
        """Draws the name of a tensor of a scope, mostly of a dtype that is given."""
        known = tensors(nodes, function)
        if kind and self._chance.random() < 0.85:
            known = {name: one for name, one in known.items() if one == kind} or known
        return self.pick(known) or "nothing"

    def add(self, nodes, function, op, *inputs, **attrs) -> str:
        """Adds an operator; returns the name of its first output."""
        name = f"added_{self._chance.randrange(10**6)}"
        node = nodes.add(name=name, op=op)
        node.input.extend(inputs)
        for key, value in attrs.items():
            node.attr[key].CopyFrom(value)
        output = self.pick(_outputs(op)[:1])
        return name if function is None else f"{name}:{output}:0"

    def constant(self, nodes, function, value) -> str:
        """Adds a constant."""
        tensor = tf.make_tensor_proto(value)
        attrs = {"dtype": attr(type=tensor.dtype), "value": attr(tensor=tensor)}
        return self.add(nodes, function, "Const", **attrs)

    @property
    def path(self) -> str:
        """Draws a path outside of the artifact."""
        return self.pick(self._paths)


def _repair(meta):
    """Removes what only says what another part was, so that more graphs load."""
    for nodes, _ in _scopes(meta):
        names = {node.name for node in nodes}
        for node in nodes:
            node.attr.pop("_output_shapes", None)
            kept = [x for x in node.input if x[:1] != "^" or x[1:] in names]
            if len(kept) != len(node.input):
                node.input[:] = kept


def attr(**fields) -> Any:
    """Returns an AttrValue."""
    from tensorflow.core.framework import attr_value_pb2

    return attr_value_pb2.AttrValue(**fields)


def tensors(nodes, function) -> dict[str, int]:
    """Returns the tensors of a scope, each with its dtype, 0 where it is not known."""
    found = {}
    if function is not None:
        found = {one.name: one.type for one in function.signature.input_arg}
    for node in nodes:
        definition = _definition(node.op)
        results = definition.output_arg if definition else ()
        place = 0
        for result in results:
            kinds = [result.type]
            if result.type_attr:
                kinds = [node.attr[result.type_attr].type]
                many = node.attr[result.number_attr].i if result.number_attr else 1
                kinds = kinds * max(0, min(many, 9))
            elif result.type_list_attr:
                kinds = list(node.attr[result.type_list_attr].list.type)
            for index, kind in enumerate(kinds):
                name = f"{node.name}:{place}"
                if function is not None:
                    name = f"{node.name}:{result.name}:{index}"
                found[name] = kind
                place += 1
    return found


def _kind_of(name, nodes, function) -> int:
    known = tensors(nodes, function)
    return known.get(name) or known.get(f"{name}:0") or 0


def _outputs(op: str) -> list[str]:
    definition = _definition(op)
    names = [one.name for one in definition.output_arg] if definition else []
    return names or ["output"]


def _definition(op: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(op)


def _rename_node(m, meta):
    nodes, _ = m.scope(meta)
    node, other = m.pick(nodes), m.pick(nodes)
    if node is None:
        return False
    old, node.name = node.name, m.pick((other.name, "renamed", node.name + "_1"))
    if m.pick((True, False)):  # and what refers to it
        for one in nodes:
            for i, name in enumerate(one.input):
                if name.removeprefix("^").partition(":")[0] == old:
                    one.input[i] = name.replace(old, node.name, 1)
    return True


def _rename_function(m, meta):
    function = m.pick(meta.graph_def.library.function)
    if function is None:
        return False
    old = function.signature.name
    function.signature.name = m.pick(("renamed", *HOSTILE, *_names(meta)))
    if m.pick((True, False)):
        for value in _function_attrs(meta):
            if value.name == old:
                value.name = function.signature.name
    return True


def _rewire(m, meta):
    nodes, function = m.scope(meta)
    node = m.pick([one for one in nodes if one.input])
    if node is None:
        return False
    index = m.pick(range(len(node.input)))
    kind = _kind_of(node.input[index], nodes, function)
    node.input[index] = m.tensor(nodes, function, kind)
    return True


def _control(m, meta):
    nodes, _ = m.scope(meta)
    node, other = m.pick(nodes), m.pick(nodes)
    if node is None:
        return False
    node.input.append("^" + other.name)
    return True


def _drop_input(m, meta):
    nodes, _ = m.scope(meta)
    node = m.pick([one for one in nodes if one.input])
    if node is None:
        return False
    del node.input[m.pick(range(len(node.input)))]
    return True


def _relabel(m, meta):
    nodes, _ = m.scope(meta)
    node = m.pick(nodes)
    if node is None:
        return False
    node.op = m.pick((*HOSTILE, *_names(meta), m.pick(_all_nodes(meta)).op))
    return True


def _move_or_copy(m, meta):
    (nodes, own), (others, function) = m.scope(meta), m.scope(meta)
    node = m.pick(nodes)
    if node is None:
        return False
    copy = others.add()
    copy.CopyFrom(node)
    copy.name = m.pick((node.name, node.name + "_copy"))
    for i in range(len(copy.input)):
        if m.pick((True, True, False)):
            kind = _kind_of(copy.input[i], nodes, own)
            copy.input[i] = m.tensor(others, function, kind)
    if m.pick((True, False)):
        nodes.remove(node)
    return True


def _remove(m, meta):
    nodes, _ = m.scope(meta)
    node = m.pick(nodes)
    if node is None:
        return False
    nodes.remove(node)
    return True


def _call_another_function(m, meta):
    value = m.pick(_function_attrs(meta))
    names = _names(meta)
    if value is None or not names:
        return False
    value.name = m.pick(names)
    return True


def _add_a_call(m, meta):
    nodes, function = m.scope(meta)
    called = m.pick(meta.graph_def.library.function)
    if called is None:
        return False
    name = called.signature.name
    inputs = [m.tensor(nodes, function, x.type) for x in called.signature.input_arg]
    kinds = {
        key: attr(list=attr().list.__class__(type=[one.type for one in arguments]))
        for key, arguments in (
            ("Tin", called.signature.input_arg),
            ("Tout", called.signature.output_arg),
        )
    }
    target = attr(func=attr().func.__class__(name=name))
    op = m.pick(("StatefulPartitionedCall", "PartitionedCall", name))
    more = {} if op == name else {"f": target, **kinds}
    new = m.add(nodes, function, op, *inputs, **more)
    _run_too(m, nodes, function, new)
    return True


def _run_too(m, nodes, function, tensor):
    """Makes what runs depend on a new operator."""
    name = "^" + tensor.partition(":")[0]
    if function is not None and m.pick((True, True, False)):
        key = m.pick([*function.control_ret, "more"])
        function.control_ret[key] = name[1:]
        function.signature.control_output.append(key)
    else:
        m.pick(nodes).input.append(name)


def _keep_what_is_fed(m, meta):
    nodes, function = m.scope(meta)
    kind = m.pick((tf.string, tf.float32, tf.int32)).as_datatype_enum
    handles = [one for one in nodes if one.op == "VarHandleOp"]
    named = {
        "dtype": attr(type=kind),
        "shape": attr(shape=tf.TensorShape(None).as_proto()),
        "shared_name": attr(s=m.pick((b"kept", *(h.name.encode() for h in handles)))),
    }
    handle = m.add(nodes, function, "VarHandleOp", **named)
    arguments = [] if function is None else function.signature.input_arg
    handle = m.pick([handle, *(one.name for one in arguments if one.type == 20)])
    value = m.tensor(nodes, function, kind)
    op = m.pick(("AssignVariableOp", "AssignAddVariableOp", "LookupTableImportV2"))
    new = m.add(nodes, function, op, handle, value, dtype=attr(type=kind))
    _run_too(m, nodes, function, new)
    return True


def _touch_a_file(m, meta):
    nodes, function = m.scope(meta)
    path = m.pick((m.constant(nodes, function, m.path), m.tensor(nodes, function)))
    text = m.constant(nodes, function, "written")
    names = m.constant(nodes, function, ["a"])
    kinds = attr(list=attr().list.__class__(type=[tf.string.as_datatype_enum]))
    op = m.pick(("SaveV2", "SaveV2", "RestoreV2", "RestoreV2", "WriteFile", "ReadFile"))
    inputs = {"WriteFile": [path, text], "ReadFile": [path]}
    inputs |= {"SaveV2": [path, names, names, names], "RestoreV2": [path, names, names]}
    new = m.add(nodes, function, op, *inputs[op], dtypes=kinds)
    _run_too(m, nodes, function, new)
    return True


def _path_of_a_checkpoint(m, meta):
    for nodes, function in _scopes(meta):
        for node in nodes:
            if node.op in ("SaveV2", "RestoreV2", "ShardedFilename") and m.pick((1, 0)):
                path = m.constant(nodes, function, m.path)
                node.input[0] = m.pick((path, m.tensor(nodes, function)))
                return True
    return False


def _uninitialised(m, meta):
    nodes, function = m.scope(meta)
    shape = m.constant(nodes, function, [m.pick((3, 7, 1000))])
    kind = m.pick((tf.int32, tf.float32)).as_datatype_enum
    if function is not None and function.ret:
        key = m.pick(sorted(function.ret))
        kind = _kind_of(function.ret[key], nodes, function) or kind
        function.ret[key] = m.add(
            nodes, function, "Empty", shape, dtype=attr(type=kind)
        )
        return True
    new = m.add(nodes, function, "Empty", shape, dtype=attr(type=kind))
    if function is None and meta.signature_def:
        outputs = meta.signature_def[m.pick(sorted(meta.signature_def))].outputs
        outputs["memory"].name, outputs["memory"].dtype = new + ":0", kind
    return True


def _constant_value(m, meta):
    nodes = [one for one in _all_nodes(meta) if one.op == "Const"]
    node = m.pick(nodes)
    if node is None:
        return False
    tensor = node.attr["value"].tensor
    if not tensor.dtype:  # another change has removed it
        return False
    dtype = tf.as_dtype(tensor.dtype)
    if dtype == tf.string:
        changed = tf.make_tensor_proto(m.path, dtype)
    elif dtype.is_integer:
        low, high = dtype.min, dtype.max
        number = min(max(m.pick(NUMBERS), low), high)
        changed = tf.make_tensor_proto(number, dtype)
    else:
        changed = tf.make_tensor_proto(bool(m.pick((0, 1))), tf.bool)
    if dtype != tf.bool and changed.dtype == tf.bool.as_datatype_enum:
        changed.dtype, changed.float_val[:] = tensor.dtype, [m.pick(NUMBERS)]
    changed.tensor_shape.CopyFrom(tensor.tensor_shape)
    if m.pick((0, 0, 0, 1)):
        changed.tensor_shape.dim.add(size=abs(m.pick(NUMBERS)))
    tensor.CopyFrom(changed)
    return True


def _attribute(m, meta):
    node = m.pick([one for one in _all_nodes(meta) if one.attr])
    if node is None:
        return False
    key = m.pick(sorted(node.attr))
    value = node.attr[key]
    kind = value.WhichOneof("value")
    if kind == "type":
        value.type = m.pick((1, 3, 7, 9, 10, 20))
    elif kind == "s":
        value.s = m.pick((b"kept", b"", m.path.encode(), b"file:///tmp/x"))
    elif kind in ("i", "b"):
        setattr(value, kind, m.pick(NUMBERS) if kind == "i" else not value.b)
    elif m.pick((True, False)):
        del node.attr[key]
    else:
        other = m.pick([one for one in _all_nodes(meta) if key in one.attr])
        value.CopyFrom(other.attr[key])
    return True


def _results_of_a_function(m, meta):
    function = m.pick([f for f in meta.graph_def.library.function if f.ret])
    if function is None:
        return False
    key = m.pick(sorted(function.ret))
    kind = _kind_of(function.ret[key], function.node_def, function)
    function.ret[key] = m.tensor(function.node_def, function, kind)
    return True


def _exchangeable(m, meta):
    functions = list(meta.graph_def.library.function)
    if not functions:
        return False
    for function in (m.pick(functions), m.pick(functions)):
        function.attr["api_implements"].s = b"same"
        function.attr["api_preferred_device"].s = m.pick((b"CPU", b"GPU"))
    return True


def _signature_tensor(m, meta):
    key = m.pick(sorted(meta.signature_def))
    if key is None:
        return False
    side = m.pick((meta.signature_def[key].inputs, meta.signature_def[key].outputs))
    name = m.pick([*sorted(side), "more"])
    saver = meta.saver_def
    side[name].name = m.pick(
        (
            *(m.tensor(meta.graph_def.node, None) for _ in range(4)),
            *(saver.filename_tensor_name, saver.save_tensor_name),
            saver.restore_op_name + ":0",
        )
    )
    side[name].dtype = side[name].dtype or m.pick((1, 3, 7))
    return True


def _signature_key(m, meta):
    key = m.pick(sorted(meta.signature_def))
    if key is None:
        return False
    to = m.pick(("__saved_model_init_op", "__saved_model_train_op", "other"))
    meta.signature_def[to].CopyFrom(meta.signature_def[key])
    if m.pick((True, False)):
        del meta.signature_def[key]
    return True


def _saver(m, meta):
    saver, nodes = meta.saver_def, meta.graph_def.node
    node = m.pick(nodes)
    field = m.pick(("save_tensor_name", "restore_op_name", "filename_tensor_name"))
    names = [saver.save_tensor_name, saver.restore_op_name, saver.filename_tensor_name]
    name = m.pick((*names, node.name, node.name + ":0", ""))
    setattr(saver, field, name)
    return True


def _initialiser(m, meta):
    key = m.pick(INIT_KEYS)
    names = [*(n.name for n in meta.graph_def.node), meta.saver_def.restore_op_name]
    meta.collection_def[key].node_list.value[:] = [m.pick(names)]
    return True


def _asset(m, meta):
    asset = meta.asset_file_def.add(filename=m.pick(("x", "a/b", m.path, "../" * 9)))
    fed = (meta.saver_def.filename_tensor_name, m.tensor(meta.graph_def.node, None))
    asset.tensor_info.name = m.pick(fed)
    return True


def _device(m, meta):
    node = m.pick(_all_nodes(meta))
    node.device = m.pick(("/device:CPU:0", "/job:worker/task:1", "/device:GPU:0"))
    return True


def _object_graph(m, meta):
    nodes = [o for o in meta.object_graph_def.nodes if o.HasField("function")]
    node, names = m.pick(nodes), _names(meta)
    if node is None or not names:
        return False
    node.function.concrete_functions[:] = [m.pick(names)]
    return True


def _loop(m, meta):
    """Rewires a loop: its condition or its step reads another value."""
    bodies = {f.signature.name: f for f in meta.graph_def.library.function}
    loops = [n for n in _all_nodes(meta) if n.op in ("While", "StatelessWhile")]
    node = m.pick(loops)
    if node is None:
        return False
    function = bodies.get(node.attr[m.pick(("cond", "body"))].func.name)
    if function is None:
        return False
    key = m.pick(sorted(function.ret))
    kind = _kind_of(function.ret[key], function.node_def, function)
    function.ret[key] = m.tensor(function.node_def, function, kind)
    return True


CHANGES: tuple[Callable[[Mutator, Any], bool], ...] = (
    *(_rename_node, _rename_function, _rewire, _rewire, _control, _drop_input),
    *(_relabel, _move_or_copy, _remove, _call_another_function, _add_a_call),
    *(_keep_what_is_fed, _keep_what_is_fed, _touch_a_file, _path_of_a_checkpoint),
    *(_uninitialised, _constant_value, _attribute, _results_of_a_function),
    *(_exchangeable, _signature_tensor, _signature_tensor, _signature_key, _saver),
    *(_initialiser, _asset, _device, _object_graph, _loop, _rewire),
)


def _scopes(meta):
    """Returns the main graph and every function: `(nodes, function or None)`."""
    graph = meta.graph_def
    functions = [(f.node_def, f) for f in graph.library.function]
    return [(graph.node, None), *functions]


def _all_nodes(meta):
    return [node for nodes, _ in _scopes(meta) for node in nodes]


def _names(meta):
    return [one.signature.name for one in meta.graph_def.library.function]


def _function_attrs(meta):
    for node in _all_nodes(meta):
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func
            yield from value.list.func


def what_runs(saved: Message) -> bytes:
    """Returns what a session loads and runs, so that equal graphs are tried once.

    It is found from names alone, apart from the scan: whatever an operator or a result
    mentions is reached.
    """
    parts = []
    for meta in saved.meta_graphs:
        parts += _reached(meta)
        rest = type(meta)()
        rest.CopyFrom(meta)
        for field in ("graph_def", "object_graph_def", "meta_info_def"):
            rest.ClearField(field)
        parts.append(rest.SerializeToString(deterministic=True))
        parts.append(b",".join(sorted(t.encode() for t in meta.meta_info_def.tags)))
    return b"\n".join(parts)


def _reached(meta):
    nodes: dict[str, list[Any]] = {}
    for node in meta.graph_def.node:
        nodes.setdefault(node.name, []).append(node)
    functions = {f.signature.name: f for f in meta.graph_def.library.function}
    text = str([meta.saver_def, meta.signature_def, meta.collection_def])
    waiting = [name for name in nodes if f'"{name}"' in text or f'"{name}:' in text]
    seen: set[str] = set()
    found, called = [], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in nodes.get(name, ()):
            found.append(node)
            waiting += [one.removeprefix("^").partition(":")[0] for one in node.input]
    bodies = list(found)
    while bodies:
        node = bodies.pop()
        names = [node.op, *(v.func.name for v in node.attr.values())]
        names += [f.name for v in node.attr.values() for f in v.list.func]
        for name in names:
            if name in functions and name not in called:
                called.add(name)
                found.append(functions[name])
                bodies += functions[name].node_def
        if any("api_implements" in f.attr for f in functions.values()):
            found += [f for f in functions.values() if "api_implements" in f.attr]
            break
    return sorted(one.SerializeToString(deterministic=True) for one in found)
