"""The structure of the package, measured from its source: run it to see the figures.

    python tests/structure.py

prints a line per folder (files, lines of code, imports from its neighbours) and every
violation of a rule of the house. Each rule is a function from a folder of source to a
list of violations; nothing here imports the package. `architecture_test.py` requires
that the package has none, and applies each rule to small planted packages.
"""

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "keras_attention"
ROOT = PACKAGE.name

# A package may import from a lower rank, from its own, and sideways while no circle
# closes. `text` is a leaf.
RANK = {
    "untrusted": 0,
    "ops": 0,
    "layers": 1,
    "blocks": 2,
    "text": 2,
    "generation": 2,
    "models": 3,
    "tasks": 4,
    "weights": 5,
    "training": 5,
    "explain": 5,
    "testing": 5,
    "export": 6,
    "serving": 6,
    "cli": 7,
    "__main__": 7,
}
LEAVES = {"text"}
FOUNDATIONS = {"untrusted"}  # only the standard library; a leaf may import it too
BACKENDS = {f"ops.backend.{name}" for name in ("kernels", "compiled", "recompute")}
# Third-party packages that only some of ours may import, even inside a function.
ONLY_IN = {
    "tensorflow": {"text", "export", "serving", "ops.backend.compiled"}
    | {"weights.tf_checkpoint", "ops.backend.replicas", "ops.backend.recompute"},
    "tensorflow_serving": {"export", "serving"},
    "grpc": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "tensorflow_text": {"text", "export"},
    "tf2onnx": {"export"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "openvino": {"export"},
    "ai_edge_litert": {"export"},
    "matplotlib": {"explain"},
    "jinja2": {"text"},
    "sacrebleu": {"training"},
    "jax": BACKENDS,
    "torch": BACKENDS,
}
# Slow to import and not in every installation: imported by the function in need.
ONLY_INSIDE_FUNCTIONS = {"onnxruntime", "openvino", "matplotlib", "jax", "torch"} | {
    *("ai_edge_litert", "jinja2", "sacrebleu"),
    *("tensorflow_serving", "grpc", "starlette", "uvicorn", "prometheus_client"),
}

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60
MAX_PACKAGE_CODE_LINES = 36000  # docs/design.md says why
MAX_FILES = 14  # of a folder, with __init__.py
# Folders in which each file is one of a kind: a reader looks one up by its name.
ONE_OF_A_KIND = {"layers", "weights", "tasks", "cli"}
MAX_ENTRIES = {"export": 11}  # files, __init__.py too, and folders
MAX_ARGUMENTS = 12
MAX_OWN_ARGUMENTS = 8
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
# Where Keras prescribes the arguments: function -> (how many, why).
WIDE_FUNCTIONS = {
    "layers/multi_head_attention.py:MultiHeadAttention.call": (
        15,
        "those of keras.layers.MultiHeadAttention, and what a decoder passes",
    ),
    "export/api.py:export_model": (17, "one keyword per option of a user's export"),
    "training/fine_tuning.py:fine_tune": (
        21,
        "one keyword per setting of a training, as in transformers",
    ),
    "cli/serve.py:serve": (16, "one keyword per option of the command"),
}
_FLAT = "flat arguments, as Keras' own models have; saved in .keras files by name"
_FILE = "what a tokenizer's file can say, one argument each; saved in .keras files"
# Class -> (arguments of its own, why there are more than the rule says).
WIDE_CONSTRUCTORS = {
    "MultiHeadAttention": (23, "those of Keras' two multi-head layers, and ours"),
    "MonotonicAttention": (9, "three of them are those of every attention layer"),
    "BertEncoder": (14, _FLAT),
    "GPTDecoder": (19, _FLAT),
    "Seq2SeqTransformer": (19, _FLAT),
    "T5EncoderDecoder": (16, _FLAT),
    "T5Encoder": (13, _FLAT),
    "VisionTransformer": (13, _FLAT),
    "WordPieceTokenizer": (13, _FILE),
    "BytePairTokenizer": (14, _FILE),
    "Seq2SeqLM": (9, "its ids of tokens, and the settings of a checkpoint"),
    "DevelopmentServer": (11, "one keyword per option of the command `serve`"),
}

# Methods that Keras documents; anything else public has a docstring.
KERAS_OVERRIDES = {
    "build",
    "call",
    "compute_mask",
    "compute_output_shape",
    "compute_output_spec",
    "from_config",
    "get_build_config",
    "build_from_config",
    "get_config",
    "load_own_variables",
    "save_own_variables",
}


def sources(package):
    """Yield (path relative to the package, text, syntax tree) of every module."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(package), text, _parsed(text)


_parsed = functools.cache(ast.parse)


def module_name(relative):
    parts = (ROOT, *relative.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def subpackage(module):
    """Return "ops" for "keras_attention.ops.attend"."""
    return module.split(".")[1]


@functools.cache
def imported_names(tree, importer, is_package):
    """List (line, dotted name, imported inside a function?) of every import."""
    found = []
    inside = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - is_package
                parent = importer.split(".")[: len(importer.split(".")) - up]
                base = ".".join([*parent, base] if base else parent)
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rsplit(".")[-1]
            name = node.args[0]
            if called in {"import_module", "__import__"} and (
                isinstance(name, ast.Constant) and isinstance(name.value, str)
            ):
                names = [name.value]
        found += [(node.lineno, name, id(node) in inside) for name in names]
    return found


def all_imports(package):
    """Yield (importer, where, dotted name, inside?); the lazy root is left out."""
    for relative, _, tree in sources(package):
        if relative != Path("__init__.py"):
            importer = module_name(relative)
            is_package = relative.name == "__init__.py"
            for line, name, inside in imported_names(tree, importer, is_package):
                yield importer, f"{relative}:{line}", name, inside


def our_edges(package):
    """Yield (importer, where, imported module of ours), or None for the root."""
    modules = {module_name(relative) for relative, _, _ in sources(package)}
    for importer, where, name, _ in all_imports(package):
        if name.split(".")[0] != ROOT or name == f"{ROOT}.__version__":
            continue
        imported = name
        while imported not in modules:  # a class or a function: its module
            parent, _, last = imported.rpartition(".")
            if parent == ROOT and (package / last).is_dir():
                break
            imported = parent
        yield importer, where, None if imported == ROOT else imported


def misplaced_packages(package):
    return [
        f"{entry.name}: not in the table RANK of tests/architecture_test.py"
        for entry in sorted(package.iterdir())
        if entry.suffix == ".py" or (entry.is_dir() and any(entry.rglob("*.py")))
        if entry.stem not in {*RANK, "__init__"}
    ]


def folders_left_out_of_the_wheel(package):
    folders = {path.parent for path in package.rglob("*.py")}
    return [
        f"{folder.relative_to(package)}/: has no __init__.py, so it is not installed"
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file()
    ]


def upward_imports(package):
    found = []
    for importer, where, imported in our_edges(package):
        ours = subpackage(importer)
        if imported is None:
            found.append(f"{where}: imports the public facade, name the module itself")
            continue
        theirs = subpackage(imported)
        if ours not in RANK or theirs not in RANK or ours == theirs:
            continue
        if theirs in FOUNDATIONS:
            continue
        if ours in LEAVES:
            found.append(f"{where}: {ours} is a leaf, it imports nothing of ours")
        elif theirs in LEAVES and RANK[ours] < RANK["models"]:
            found.append(f"{where}: {ours} may not import {theirs}")
        elif RANK[theirs] > RANK[ours]:
            found.append(f"{where}: {ours} imports {theirs}, which lies above it")
    return found


def circles(package):
    """Return circles of modules, and of the entries of each folder."""
    between_modules = {}
    for importer, _, imported in our_edges(package):
        if imported is not None and imported != importer:
            between_modules.setdefault(importer, set()).add(imported)
    found = []
    for folder, graph in [("", between_modules), *graphs(package)]:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append(f"{folder}: {' <- '.join(error.args[1])}")
    return found


def misplaced_third_party_imports(package):
    found = []
    for importer, where, name, inside in all_imports(package):
        top = name.split(".")[0]
        allowed = ONLY_IN.get(top)
        module = importer.partition(".")[2]
        if allowed and not {subpackage(importer), module} & allowed:
            found.append(f"{where}: {top} belongs in {', '.join(sorted(allowed))}")
        elif top in ONLY_INSIDE_FUNCTIONS and not inside:
            found.append(f"{where}: import {top} inside the function that needs it")
    return found


def stray_softmax(package):
    """Find uses of a softmax, called or handed over, outside ops/attend.py."""
    found = []
    for relative, _, tree in sources(package):
        if relative == Path("ops/attend.py"):
            continue
        for node in ast.walk(tree):
            name = getattr(node, "attr", getattr(node, "id", ""))
            if isinstance(node, ast.keyword) and node.arg == "activation":
                name = getattr(node.value, "value", "")
            if name in {"softmax", "Softmax"}:
                found.append(f"{relative}:{node.lineno}: softmax is in ops/attend.py")
    return found


def stray_blocked_constants(package):
    """Find the blocked score, and the other values used as one, outside attend.py."""
    found = []
    for relative, _, tree in sources(package):
        if relative == Path("ops/attend.py"):
            continue
        unbounded = UNBOUNDED if relative.parts[0] in MATHS else None
        for node in ast.walk(tree):
            written = ast.unparse(node) if isinstance(node, ast.expr) else ""
            if BLOCKED.fullmatch(written) or (unbounded and unbounded.match(written)):
                found.append(f"{relative}:{node.lineno}: {written} is a blocked score")
    return found


# As `ast.unparse` writes them, whatever the source looked like.
BLOCKED = re.compile(r"-?1e\+?30|-(1000000000\.0|1e\+?9|65504(\.0)?|3\.4\d*e\+?38)")
UNBOUNDED = re.compile(r"(-(np|numpy|math|ops)\.inf|float\('-inf'\)|.*finfo\(.*\.min)$")
MATHS = {"ops", "layers", "blocks", "models", "generation"}


def long_files(package):
    return [
        f"{relative}: {len(text.splitlines())} lines, at most {MAX_FILE_LINES}"
        for relative, text, _ in sources(package)
        if len(text.splitlines()) > MAX_FILE_LINES
    ]


def without_docstring(body):
    first = body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if documented and isinstance(first.value.value, str) else body


def long_functions(package):
    found = []
    for relative, _, tree in sources(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = without_docstring(node.body)
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if lines > MAX_BODY_LINES:
                    found.append(
                        f"{relative}:{node.lineno}: {node.name} has a body of {lines} "
                        f"lines, at most {MAX_BODY_LINES}"
                    )
    return found


def crowded_layer_files(package):
    """Find files of layers/ with two public classes, or one that is named otherwise."""
    found = []
    for relative, _, tree in sources(package):
        private = relative.stem == "base" or relative.stem.startswith("_")
        if relative.parts[0] != "layers" or private:
            continue
        names = [
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        if len(names) > 1:
            found.append(f"{relative}: {', '.join(names)}: one public class a file")
        elif names and names[0].lower() != relative.stem.replace("_", ""):
            found.append(f"{relative}: defines {names[0]}: name the file after it")
    return found


def public_methods(package):
    """Yield (path, class, method) of public methods of public classes."""
    for relative, _, tree in sources(package):
        for cls in tree.body:
            if isinstance(cls, ast.ClassDef) and not cls.name.startswith("_"):
                for node in cls.body:
                    if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                        yield relative, cls, node


def undocumented_methods(package):
    """Find methods without a docstring; ruff asks for all other docstrings.

    An override is documented by the method it overrides, Keras' or ours.
    """
    bases = [node for _, _, node in public_methods(package) if ast.get_docstring(node)]
    documented = KERAS_OVERRIDES | {node.name for node in bases}
    return [
        f"{relative}:{node.lineno}: {cls.name}.{node.name} has no docstring"
        for relative, cls, node in public_methods(package)
        if node.name not in documented
    ]


def code_lines(package):
    """Count lines that hold code: no blank lines, comments or docstrings."""
    total = 0
    for _, text, tree in sources(package):
        documentation = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                documentation |= set(range(node.lineno, node.end_lineno + 1))
        total += sum(
            bool(line.strip()) and not line.lstrip().startswith("#")
            for number, line in enumerate(text.splitlines(), start=1)
            if number not in documentation
        )
    return total


def crowded_folders(package):
    """Find folders with more files than a reader can hold in mind.

    A folder is left out where each file is one of a kind.
    """
    found = []
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        name = folder.relative_to(package).as_posix()
        files = len(list(folder.glob("*.py")))
        entries = files + len([e for e in folder.iterdir() if any(e.rglob("*.py"))])
        if files > MAX_FILES and name not in ONE_OF_A_KIND:
            found.append(f"{name}/: {files} files, at most {MAX_FILES}")
        if entries > MAX_ENTRIES.get(name, entries):
            found.append(f"{name}/: {entries} entries, at most {MAX_ENTRIES[name]}")
    return found


def functions_of(package):
    """Yield (path, qualified name, syntax node) of every function and method."""
    for relative, _, tree in sources(package):
        within = [(tree, "")]
        for node, prefix in within:  # it grows
            for child in ast.iter_child_nodes(node):
                name = prefix
                if isinstance(child, FUNCTIONS | ast.ClassDef):
                    name = f"{prefix}.{child.name}".lstrip(".")
                if isinstance(child, FUNCTIONS):
                    yield relative, name, child
                within.append((child, name))


def number_of_arguments(function):
    """Count the named arguments; `self`, `cls`, `*args` and `**kwargs` are none."""
    named = function.args
    names = [each.arg for each in named.posonlyargs + named.args + named.kwonlyargs]
    return len([name for name in names if name not in ("self", "cls")])


def wide_functions(package):
    """Find functions with too many arguments, constructors left out."""
    found = []
    for relative, name, function in functions_of(package):
        number = number_of_arguments(function)
        allowed = (MAX_ARGUMENTS, "")
        if function.name == "__init__":
            continue
        allowed = WIDE_FUNCTIONS.get(f"{relative.as_posix()}:{name}", allowed)
        if number > allowed[0]:
            found.append(
                f"{relative}:{function.lineno}: {name} has {number} arguments, "
                f"at most {allowed[0]}"
            )
    return found


def wide_constructors(package):
    """Find constructors with more arguments of their own than the rule says.

    The exceptions are listed with their number, so that the list cannot be outdated.
    """
    found = []
    for relative, name, function in functions_of(package):
        if function.name != "__init__":
            continue
        number, cls = number_of_arguments(function), name.rpartition(".")[0]
        expected, _ = WIDE_CONSTRUCTORS.get(cls, (MAX_OWN_ARGUMENTS, ""))
        if number > expected:
            found.append(
                f"{relative}:{function.lineno}: {cls} takes {number} arguments of its "
                f"own, at most {expected}"
            )
        elif cls in WIDE_CONSTRUCTORS and number < expected:
            found.append(f"{relative}:{function.lineno}: {cls} takes {number} only")
    return found


def private_imports(package):
    """Find imports of what another module keeps to itself.

    A module whose name begins with an underscore belongs to its folder; a name that
    does, to its module.
    """
    found = []
    for importer, where, name, _ in all_imports(package):
        if name.split(".")[0] != ROOT or name == f"{ROOT}.__version__":
            continue
        folder, parent = importer.rpartition(".")[0], name.rpartition(".")[0]
        if not is_module(package, name):
            if name.rpartition(".")[2].startswith("_"):
                found.append(f"{where}: {name} is private to its module")
                continue
            parent = parent.rpartition(".")[0]
        if "._" in name and folder != parent:
            found.append(f"{where}: {name} is private to its folder")
    return found


def is_module(package, name):
    """Return whether a dotted name is a module of ours."""
    return (package.parent / (name.replace(".", "/") + ".py")).is_file()


def graphs(package):
    """Yield (folder, its entries and what each imports of the others)."""
    edges = [
        (importer.split("."), imported.split("."))
        for importer, _, imported in our_edges(package)
        if imported is not None
    ]
    folders = {tuple(importer[:depth]) for importer, _ in edges for depth in (1, 2, 3)}
    for folder in sorted(folders):
        graph = {}
        for importer, imported in edges:
            depth = len(folder)
            both_below = importer[:depth] == imported[:depth] == [*folder]
            if both_below and min(len(importer), len(imported)) > depth:
                ours, theirs = importer[depth], imported[depth]
                graph.setdefault(ours, set())
                if ours != theirs:
                    graph[ours].add(theirs)
        if graph:
            yield ".".join(folder), graph


RULES = [
    misplaced_packages,
    folders_left_out_of_the_wheel,
    upward_imports,
    circles,
    misplaced_third_party_imports,
    stray_softmax,
    stray_blocked_constants,
    long_files,
    long_functions,
    crowded_layer_files,
    undocumented_methods,
    crowded_folders,
    wide_functions,
    wide_constructors,
    private_imports,
]


def report(package):
    """Return the figures of every folder, and the violations, as text."""
    lines = [f"{'folder':34} {'entries':>7} {'arrows':>6} {'lines of code':>13}"]
    for folder, graph in graphs(package):
        path = package.parent / folder.replace(".", "/")
        if path.is_dir():
            entries = [e for e in path.iterdir() if e.suffix == ".py" or e.is_dir()]
            entries = [e for e in entries if e.name != "__pycache__"]
            arrows = sum(map(len, graph.values()))
            lines.append(
                f"{folder:34} {len(entries):>7} {arrows:>6} {code_lines(path):>13}"
            )
    violations = [found for rule in RULES for found in rule(package)]
    lines += ["", *(violations or ["No rule is broken."])]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(PACKAGE))
