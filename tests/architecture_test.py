"""The rules of the house: the package breaks none, and each rule finds what it should.

The rules are in `structure.py`, which can also be run.
"""

import textwrap

import pytest
from structure import (
    MAX_ARGUMENTS,
    MAX_BODY_LINES,
    MAX_FILE_LINES,
    MAX_FILES,
    MAX_OWN_ARGUMENTS,
    MAX_PACKAGE_CODE_LINES,
    PACKAGE,
    RANK,
    ROOT,
    RULES,
    circles,
    code_lines,
    crowded_folders,
    crowded_layer_files,
    folders_left_out_of_the_wheel,
    long_files,
    long_functions,
    misplaced_packages,
    misplaced_third_party_imports,
    private_imports,
    report,
    stray_blocked_constants,
    stray_softmax,
    undocumented_methods,
    upward_imports,
    wide_constructors,
    wide_functions,
)


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


def arguments(number):
    return ", ".join(f"argument_{index}" for index in range(number))


WIDE_FUNCTION = f"def f({arguments(MAX_ARGUMENTS + 1)}): pass"
WIDE_CONSTRUCTOR = (
    f"class A:\n    def __init__(self, *, {arguments(MAX_OWN_ARGUMENTS + 1)}, "
    "**kwargs): pass"
)
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
    (wide_functions, "ops/a.py", WIDE_FUNCTION),
    (
        wide_functions,
        "ops/a.py",
        f"class A:\n    def g(self):\n        {WIDE_FUNCTION}",
    ),
    (wide_constructors, "layers/a.py", WIDE_CONSTRUCTOR),
    (wide_constructors, "models/bert.py", WIDE_CONSTRUCTOR.replace("A", "BertEncoder")),
    (private_imports, "layers/a.py", FROM + "ops.b import _c"),
    (private_imports, "layers/a.py", "from keras_attention.layers.b import _c"),
    (private_imports, "layers/a.py", FROM + "ops._hidden import c"),
    (private_imports, "layers/a.py", FROM + "ops import _hidden"),
    (private_imports, "layers/a.py", "def f():\n    " + FROM + "ops import _hidden"),
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
} | {
    "layers/b.py": "def c():\n    '''Do nothing.'''\n",
    "ops/_hidden.py": "",
    "ops/b.py": "",
}


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
        {
            "export/a/__init__.py": "",
            "export/b/__init__.py": "",
            "export/a/one.py": FROM + "export.b.two import x",
            "export/a/two.py": "",
            "export/b/one.py": FROM + "export.a.two import x",
            "export/b/two.py": "",
        },
        # No module imports itself in a circle, but the two packages do.
        {
            "weights/a.py": FROM + "training.b import x",
            "training/c.py": FROM + "weights.d import x",
            "training/b.py": "",
            "weights/d.py": "",
        },
    ],
    ids=["modules", "a package and its module", "folders of export", "packages"],
)
def test_a_planted_circle_is_found(tmp_path, files):
    assert circles(plant(tmp_path, WORLD)) == []
    assert circles(plant(tmp_path, files))


def test_a_crowded_folder_is_found(tmp_path):
    files = {f"ops/file_{number}.py": "" for number in range(MAX_FILES)}
    assert crowded_folders(plant(tmp_path, WORLD)) == []
    assert crowded_folders(plant(tmp_path, {**WORLD, **files}))


def test_a_crowded_first_level_of_export_is_found(tmp_path):
    folders = {f"export/folder_{number}/__init__.py": "" for number in range(11)}
    assert crowded_folders(plant(tmp_path, {**WORLD, **folders}))


def test_the_report_names_every_folder_and_every_violation(tmp_path):
    package = plant(
        tmp_path, {**WORLD, "ops/a.py": "x = ops.softmax(y)\n" + FROM + "ops import b"}
    )
    assert "keras_attention.ops " in report(package)
    assert "ops/a.py:1: softmax is in ops/attend.py" in report(package)


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
