"""The readers that the files of all kinds of tokenizers share."""

import json

import pytest

from keras_attention.text import json_files


def test_files_that_cannot_be_read_are_named_in_the_error(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError, match=r"Received: path=.*tokenizer\.json"):
        json_files.read_json(path)
    for content, words in (
        (b"{", r"not valid JSON.*Received: path="),
        (b"[]", r"one JSON object.*Received: list"),
        (b"\xff", r"not UTF-8.*Received: path="),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            json_files.read_json(path)


def test_an_optional_file_may_be_missing(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    assert json_files.read_optional_json(path) == {}
    path.write_text(json.dumps({"unk_token": "é"}))
    assert json_files.read_optional_json(path) == {"unk_token": "é"}


def test_special_tokens_are_names_or_written_out():
    settings = {"bos_token": "<s>", "mask_token": {"content": "<m>"}, "unk_token": None}
    assert json_files.special_tokens(settings) == {"bos": "<s>", "mask": "<m>"}
    assert json_files.special_tokens(settings, ["mask", "pad"]) == {"mask": "<m>"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (None, "right", "right")),
        ({"model_max_length": 7, "padding_side": "left"}, (7, "left", "right")),
        (
            {"model_max_length": 1e30, "truncation_side": "left"},
            (None, "right", "left"),
        ),
    ],
)
def test_limits_are_those_of_the_settings(settings, expected):
    assert tuple(json_files.limits(settings).values()) == expected


def test_ids_with_gaps_are_refused():
    assert json_files.tokens_by_id({"b": 1, "a": 0}) == ["a", "b"]
    with pytest.raises(ValueError, match=r"without gaps.*Pass token ids.*Received: 2"):
        json_files.tokens_by_id({"a": 0, "b": 2})


def test_a_long_value_is_shortened_in_the_error():
    with pytest.raises(
        ValueError, match=r"because of x; supported: y\. z Received: "
    ) as e:
        json_files.refuse("x", "y", "a" * 1000, "z")
    assert len(str(e.value)) < 400
