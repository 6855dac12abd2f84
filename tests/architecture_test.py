"""The house rules, read from the source with `ast`: nothing here imports the package.

Each rule is a function from a folder of source to a list of violations. It is applied
to keras_attention/, which must have none, and at the end of this file to small planted
packages, each of which must be caught.
"""

import ast
import re
import textwrap
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "keras_attention"
ROOT = PACKAGE.name

# A package may import from a lower rank, from its own, and sideways while no circle
# closes. `text` is a leaf.
RANK = {
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
# Third-party packages that only some of ours may import, even inside a function.
ONLY_IN = {
    "tensorflow": {"text", "export", "serving", "ops.backend.compiled"}
    | {"weights.tf_checkpoint"},
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
    "jax": {"ops.backend.kernels", "ops.backend.compiled"},
    "torch": {"ops.backend.kernels", "ops.backend.compiled"},
}
# Slow to import and not in every installation: imported by the function in need.
ONLY_INSIDE_FUNCTIONS = {"onnxruntime", "openvino", "matplotlib", "jax", "torch"} | {
    "ai_edge_litert",
    *("tensorflow_serving", "grpc", "starlette", "uvicorn", "prometheus_client"),
}

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60
MAX_PACKAGE_CODE_LINES = 25000  # docs/design.md says why

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
}


def sources(package):
    """Yield (path relative to the package, text, syntax tree) of every module."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(package), text, ast.parse(text)


def module_name(relative):
    parts = (ROOT, *relative.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def subpackage(module):
    """Return "ops" for "keras_attention.ops.attend"."""
    return module.split(".")[1]


def imported_names(tree, importer, is_package):
    """Yield (line, dotted name, imported inside a function?) of every import."""
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
        for name in names:
            yield node.lineno, name, id(node) in inside


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
        if ours in LEAVES:
            found.append(f"{where}: {ours} is a leaf, it imports nothing of ours")
        elif theirs in LEAVES and RANK[ours] < RANK["models"]:
            found.append(f"{where}: {ours} may not import {theirs}")
        elif RANK[theirs] > RANK[ours]:
            found.append(f"{where}: {ours} imports {theirs}, which lies above it")
    return found


def circles(package):
    """Return circles of modules, and of the packages they stand in."""
    between_modules, between_packages = {}, {}
    for importer, _, imported in our_edges(package):
        if imported is None or imported == importer:
            continue
        between_modules.setdefault(importer, set()).add(imported)
        ours, theirs = subpackage(importer), subpackage(imported)
        if ours != theirs:
            between_packages.setdefault(ours, set()).add(theirs)
    found = []
    for graph in (between_modules, between_packages):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append(" <- ".join(error.args[1]))
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
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_has_no(rule):
    assert (PACKAGE / "__init__.py").is_file()
    violations = rule(PACKAGE)
    assert not violations, "\n" + "\n".join(violations)


def test_the_package_stays_within_its_line_budget(record_property):
    lines = code_lines(PACKAGE)
    record_property(
        "summary", f"keras_attention: {lines} of {MAX_PACKAGE_CODE_LINES} lines of code"
    )
    assert lines <= MAX_PACKAGE_CODE_LINES


LONG_BODY = "def f():\n    '''Doc.'''\n" + "    x = 1\n" * (MAX_BODY_LINES + 1)
FROM = "from keras_attention."

# rule, what the planted file is called, what it holds
PLANTED = [
    (misplaced_packages, "utils/misc.py", ""),
    (misplaced_packages, "helpers.py", ""),
    (folders_left_out_of_the_wheel, "models/presets/small.py", ""),
    (upward_imports, "ops/a.py", FROM + "layers.b import c"),
    (upward_imports, "ops/a.py", FROM + "layers import b"),
    (upward_imports, "ops/a.py", "import keras_attention.layers.b"),
    (upward_imports, "ops/a.py", "from ..layers import b"),
    (upward_imports, "ops/a.py", "from keras_attention import layers"),
    (upward_imports, "ops/a.py", "from keras_attention import MultiHeadAttention"),
    (upward_imports, "ops/a.py", "import keras_attention as ka"),
    (upward_imports, "layers/a.py", "def f():\n    " + FROM + "blocks import x"),
    (upward_imports, "layers/a.py", FROM + "text import wordpiece"),
    (upward_imports, "blocks/a.py", FROM + "text import wordpiece"),
    (upward_imports, "text/a.py", FROM + "ops import masks"),
    (upward_imports, "models/a.py", FROM + "export.api import export_model"),
    (upward_imports, "generation/a.py", FROM + "models import gpt"),
    (upward_imports, "models/__init__.py", "from ..weights import x"),
    (upward_imports, "models/__init__.py", "from .. import weights"),
    (
        upward_imports,
        "ops/a.py",
        "import importlib\nimportlib.import_module('keras_attention.export.api')",
    ),
    (upward_imports, "weights/a.py", FROM + "cli import main"),
    (misplaced_third_party_imports, "ops/a.py", "import tensorflow as tf"),
    (misplaced_third_party_imports, "weights/a.py", "from tensorflow import io"),
    (
        misplaced_third_party_imports,
        "explain/a.py",
        "def f():\n    import tensorflow",
    ),
    (misplaced_third_party_imports, "models/a.py", "import onnx.helper"),
    (misplaced_third_party_imports, "ops/a.py", "def f():\n    import torch"),
    (misplaced_third_party_imports, "layers/a.py", "def f():\n    import jax.numpy"),
    (misplaced_third_party_imports, "ops/backend/kernels.py", "import torch"),
    (misplaced_third_party_imports, "export/a.py", "import onnxruntime"),
    (misplaced_third_party_imports, "explain/a.py", "from matplotlib import pyplot"),
    (stray_softmax, "layers/a.py", "x = ops.softmax(y)"),
    (stray_softmax, "layers/a.py", "x = keras.layers.Softmax()(y)"),
    (stray_softmax, "models/a.py", "x = Dense(3, activation='softmax')"),
    (stray_softmax, "models/a.py", "from keras.activations import softmax\nf(softmax)"),
    (stray_blocked_constants, "layers/a.py", "x = -1e30"),
    (stray_blocked_constants, "layers/a.py", "x = (1 - m) * -1e9"),
    (stray_blocked_constants, "training/a.py", "x = -1e30"),
    (stray_blocked_constants, "ops/masks.py", "x = -np.inf"),
    (stray_blocked_constants, "ops/masks.py", "x = float('-inf')"),
    (stray_blocked_constants, "generation/a.py", "x = np.finfo(d).min"),
    (long_files, "ops/a.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (long_functions, "ops/a.py", LONG_BODY),
    (crowded_layer_files, "layers/a.py", "class A:\n    pass\nclass B:\n    pass"),
    (crowded_layer_files, "layers/global_attention.py", "class Luong:\n    pass"),
    (undocumented_methods, "ops/a.py", "class A:\n    def step(self):\n        pass"),
]


def plant(folder, files):
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder / ROOT


# The packages the planted files import from.
WORLD = {
    f"{name}/__init__.py": ""
    for name in RANK.keys() - {"__main__"}  # every package of the table
} | {"layers/b.py": "def c():\n    '''Do nothing.'''\n"}


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}") for case in PLANTED],
)
def test_a_planted_violation_is_found(tmp_path, rule, name, text):
    assert rule(plant(tmp_path, WORLD)) == []
    assert rule(plant(tmp_path, {**WORLD, name: text}))


@pytest.mark.parametrize(
    "files",
    [
        {"ops/a.py": FROM + "ops.b import x", "ops/b.py": FROM + "ops.a import y"},
        {"ops/__init__.py": FROM + "ops import a", "ops/a.py": FROM + "ops import x"},
        # No module imports itself in a circle, but the two packages do.
        {
            "weights/a.py": FROM + "training.b import x",
            "training/c.py": FROM + "weights.d import x",
            "training/b.py": "",
            "weights/d.py": "",
        },
    ],
    ids=["two modules", "a package and its module", "two packages"],
)
def test_a_planted_circle_is_found(tmp_path, files):
    assert circles(plant(tmp_path, WORLD)) == []
    assert circles(plant(tmp_path, files))


def test_what_is_allowed_is_not_found(tmp_path):
    package = plant(
        tmp_path,
        {
            **WORLD,
            "ops/backend/__init__.py": "",
            "layers/b.py": FROM + "ops.attend import attend\nx = log_softmax(y)",
            "layers/dot_product.py": "class DotProduct:\n    def call(self): pass",
            "explain/a.py": "def f():\n    import matplotlib.pyplot\nx = -math.inf",
            "export/a.py": "import tensorflow as tf\nfrom . import b\n"
            "from keras_attention import __version__",
            "export/b.py": "'''Uses softmax(x) and -1e30.'''\ny = 'Softmax'",
            "ops/attend.py": "x = ops.softmax(where(m, x, -1e30))",
            "models/bert.py": FROM + "text.wordpiece import Tokenizer",
            "ops/a.py": "seconds = nanoseconds / 1e9",
            "ops/backend/kernels.py": "def f():\n    import torch",
        },
    )
    assert [found for rule in RULES for found in rule(package)] == []


def test_docstrings_comments_and_blank_lines_are_not_code(tmp_path):
    text = '"""One.\n\nTwo.\n"""\n\n# three\nx = 4\n\n\ndef f():\n    """Five."""\n'
    assert code_lines(plant(tmp_path, {"ops/a.py": text})) == 2
