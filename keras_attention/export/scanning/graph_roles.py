"""Finds what runs when a SavedModel is loaded, and what runs in each signature.

A SavedModel says itself which operator saves, restores and initialises. What these
names reach is judged, through every function, not the names: any operator can be named
as the one that restores.
"""

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
# Functions that TensorFlow may exchange with each other when it optimises a graph.
EXCHANGEABLE = "api_implements"
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


class Graph:
    """The nodes and functions of one graph of a SavedModel.

    Args:
        meta: A `MetaGraphDef`.

    Attributes:
        nodes: Name to node of the main graph.
        functions: Name to function.
        bodies: Name to the nodes of a function; "" to those of the main graph.
        calls: Name to the functions that the nodes of a body call.
        operators: Name to the operators of a body; a function's name is one of them.
    """

    def __init__(self, meta: Any) -> None:
        self.meta = meta
        library = meta.graph_def.library.function
        self.functions = {one.signature.name: one for one in library}
        self.bodies: dict[str, list[Any]] = {
            name: list(one.node_def) for name, one in self.functions.items()
        }
        self.bodies[""] = list(meta.graph_def.node)  # no function has this name
        self.nodes = {node.name: node for node in self.bodies[""]}
        self.operators = {
            name: {node.op for node in body} for name, body in self.bodies.items()
        }
        self._called: dict[int, list[str]] = {}  # the nodes are kept, so are their ids
        self._missing: set[str] = set()
        self.calls = {
            name: self._find_calls(body) for name, body in self.bodies.items()
        }
        self._exchangeable: dict[bytes, set[str]] = {}
        for name, one in self.functions.items():
            if EXCHANGEABLE in one.attr:
                group = self._exchangeable.setdefault(one.attr[EXCHANGEABLE].s, set())
                group.add(name)

    def structure_problems(self) -> list[str]:
        """Returns names used twice, missing functions, and functions in a circle."""
        graph = self.meta.graph_def
        problems = []
        if "" in self.functions:
            return ["a function without a name"]
        if len(self.nodes) != len(graph.node):
            problems.append("two operators with the same name")
        if len(self.functions) != len(graph.library.function):
            problems.append("two functions with the same name")
        # The loader's error about it can take minutes to be made.
        problems += [f"function {name} is not there" for name in self._missing]
        try:
            TopologicalSorter(self.calls).prepare()
        except CycleError as error:
            problems.append(f"function {error.args[1][0]} calls itself")
        return problems

    def _find_calls(self, body: Iterable[Any]) -> set[str]:
        """Returns the functions that nodes call, and keeps those of each node."""
        calls: set[str] = set()
        for node in body:
            found = [node.op]
            for value in node.attr.values():
                kind = value.WhichOneof("value")
                if kind == "func":
                    found.append(value.func.name)
                elif kind == "list":
                    found += [one.name for one in value.list.func]
            names = [name for name in found if name in self.functions]
            if names:
                self._called[id(node)] = names
                calls.update(names)
            self._missing |= {x for x in found[1:] if x and x not in self.functions}
        return calls

    def called(self, node: Any) -> list[str]:
        """Returns the functions that a node calls, or gives to its operator.

        Args:
            node: A node of one of the `bodies`.
        """
        return self._called.get(id(node), [])

    def reached(self, names: Iterable[str]) -> set[str]:
        """Returns every operator that runs if these are run.

        Args:
            names: Names of operators or of their outputs, in the main graph.
        """
        waiting = [operator_of(name) for name in names]
        seen: set[str] = set()
        functions: set[str] = set()
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.nodes:
                continue
            seen.add(name)
            node = self.nodes[name]
            found.add(node.op)
            waiting += [operator_of(one) for one in node.input]
            found |= self._in_functions(self.called(node), functions)
        return found

    def _in_functions(self, names: Iterable[str], seen: set[str]) -> set[str]:
        """Returns the operators of functions, and of the functions that they call."""
        waiting, found = list(names), set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            one = self.functions[name]
            if EXCHANGEABLE in one.attr:
                waiting += self._exchangeable[one.attr[EXCHANGEABLE].s]
            found |= self.operators[name]
            waiting += self.calls[name]
        return found

    def initial(self) -> list[str]:
        """Returns the operators that run once, when the SavedModel is loaded."""
        meta = self.meta
        found = [
            name
            for key in _INIT_COLLECTIONS
            if key in meta.collection_def
            for name in meta.collection_def[key].node_list.value
        ]
        if INIT_SIGNATURE in meta.signature_def:
            outputs = meta.signature_def[INIT_SIGNATURE].outputs
            found += [name for one in outputs.values() for name in tensor_names(one)]
        return found

    def signatures(self) -> Iterator[tuple[str, list[str]]]:
        """Yields the name of each signature and the names of its outputs."""
        for key, signature in self.meta.signature_def.items():
            if key != INIT_SIGNATURE:
                outputs = signature.outputs.values()
                yield key, [name for one in outputs for name in tensor_names(one)]

    def reads_of_other_files(self, operators: frozenset[str]) -> list[str]:
        """Returns the nodes that read another checkpoint than the one of the artifact.

        The loader feeds the path of the checkpoint to one placeholder. A node reads it
        only if the path that it reads is this placeholder, handed on unchanged.

        Args:
            operators: The operators that read a checkpoint.
        """
        saver = self.meta.saver_def
        path = operator_of(saver.filename_tensor_name)
        paths = {path} if self._is_placeholder(path) else set()
        found: list[str] = []
        done: set[tuple[str, frozenset[str]]] = set()
        scopes = [(self.nodes, frozenset(paths), self.bodies[""])]
        while scopes:
            nodes, given, body = scopes.pop()
            for node in body:
                if node.op not in operators and not self.called(node):
                    continue
                inputs = [one for one in node.input if not one.startswith("^")]
                is_path = [_is_handed_on(one, nodes, given) for one in inputs]
                if node.op in operators and not (is_path and is_path[0]):
                    found.append(node.name)
                for name in self.called(node):
                    if operators.isdisjoint(self._in_functions([name], set())):
                        continue
                    one = self.functions[name]
                    arguments = [argument.name for argument in one.signature.input_arg]
                    known: frozenset[str] = frozenset()
                    plain = node.op in _CALLS or node.op == name
                    if plain and len(arguments) == len(inputs):
                        pairs = zip(arguments, is_path, strict=True)
                        known = frozenset(
                            argument for argument, is_it in pairs if is_it
                        )
                    if (name, known) not in done:
                        done.add((name, known))
                        body_of_it = self.bodies[name]
                        inner = {each.name: each for each in body_of_it}
                        scopes.append((inner, known, body_of_it))
        return found

    def _is_placeholder(self, name: str) -> bool:
        node = self.nodes.get(name)
        return node is not None and node.op.startswith("Placeholder")


def operator_of(name: str) -> str:
    """Returns the operator's name in the name of a tensor or of an input."""
    return name.removeprefix("^").partition(":")[0]


def tensor_names(info: Any) -> list[str]:
    """Returns the tensors of a `TensorInfo`; a sparse or composite one has several."""
    names = [info.name] if info.name else []
    sparse = info.coo_sparse
    names += [
        name
        for name in (
            sparse.values_tensor_name,
            sparse.indices_tensor_name,
            sparse.dense_shape_tensor_name,
        )
        if name
    ]
    for component in info.composite_tensor.components:
        names += tensor_names(component)
    return names


def _is_handed_on(name: str, nodes: dict[str, Any], given: frozenset[str]) -> bool:
    """Whether an input is one of the given values, through `Identity` only."""
    for _ in range(len(nodes) + 1):
        name = operator_of(name)
        if name in given:
            return True
        node = nodes.get(name)
        if node is None or node.op != "Identity" or not node.input:
            return False
        name = node.input[0]
    return False
