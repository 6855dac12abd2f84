"""Attention maps as pictures."""

import numpy as np
import pytest

import keras_attention as ka

pytest.importorskip("matplotlib")


def test_tokens_with_dollar_signs_are_shown_as_text(tmp_path):
    tokens = ["$5", "$\\frac$", "a$_{$b"]
    maps = np.full((2, 3, 3), 1 / 3)
    path = tmp_path / "maps.png"
    figure = ka.plot_attention(maps, tokens, titles=["$^$", "b"], path=path)
    axis = figure.axes[0]
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [label.get_text() for label in labels] == tokens
    assert path.stat().st_size > 1000
