"""`keras.saving.load_model` finds this library's classes in any order of imports."""

import subprocess
import sys

import pytest

REGISTERED = """
import keras.saving
find = keras.saving.get_registered_object
names = "AttentionCell", "MultiHeadAttention", "BertEncoder", "TextClassifier"
print([name for name in names if find(f"keras_attention>{name}") is None])
"""


def missing_classes(imports):
    """The classes that Keras does not find after these imports, in a new process."""
    code = f"import {imports}\n{REGISTERED}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_classes_are_registered_if_keras_is_imported_first():
    assert missing_classes("keras, keras_attention") == "[]"


@pytest.mark.xfail(
    strict=True, reason="keras_attention/__init__.py registers after Keras only"
)
def test_classes_are_registered_if_keras_is_imported_after():
    assert missing_classes("keras_attention, keras") == "[]"
