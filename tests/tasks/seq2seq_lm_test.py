"""Text from text: the loops of generation on models with an encoder."""

import itertools

import keras
import numpy as np
import pytest
from backends import to_numpy
from contracts.kinds import relative_error
from generation.tokenizers import Bytes

import keras_attention as ka

Settings = ka.GenerationSettings
START, END = 1, 2
SOURCES = [[5, 3, 8, 4, 9], [7], [3, 10, 6]]


def transformer(num_layers=1, **options):
    sizes = {"positions": "learned", "max_sequence_length": 17, **options}
    return ka.Seq2SeqTransformer(13, num_layers, 2, 6, 11, **sizes)


BACKBONES = {
    "bahdanau": lambda: ka.RecurrentSeq2Seq(13, 5, 6),
    "luong": lambda: ka.RecurrentSeq2Seq(13, 5, 6, attention="luong", cell="lstm"),
    "transformer": transformer,
    "t5": lambda: ka.T5EncoderDecoder(13, 1, 2, 6, 11, head_dim=3, scale_output=False),
}


def task(backbone, **options):
    rng = np.random.default_rng(1)
    for weight in backbone.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.6, size=weight.shape))
    options = {"start_token_id": START, "end_token_id": END, **options}
    return ka.Seq2SeqLM(backbone, compiled=False, **options)


# One of each kind is enough to be run often.
KINDS = [
    pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("luong", "t5")))
    for kind in BACKBONES
]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return task(BACKBONES[request.param]())


@pytest.fixture(scope="module")
def translator():
    return task(transformer())


def lists(rows):
    return [row.tolist() for row in rows]


def logits_of(model, source, target):
    return to_numpy(
        model.backbone(np.array([source]), None, np.array([target]))["logits"][0]
    )


def one_by_one(model, source, count):
    """Greedy search by computing all again for each token."""
    ids = [START]
    while len(ids) <= count and END not in ids:
        ids.append(int(np.argmax(logits_of(model, source, ids)[-1])))
    return ids[1:]


def test_greedy_tokens_are_those_of_full_recomputation(model):
    expected = [one_by_one(model, source, 4) for source in SOURCES]
    assert len({tuple(row) for row in expected}) > 1
    assert lists(model.generate(SOURCES, max_new_tokens=4)) == expected
    assert list(model.stream(SOURCES[0], max_new_tokens=4)) == expected[0]


def test_as_many_beams_as_tokens_find_the_best_pairs_of_all(model):
    source = SOURCES[0]
    first = logits_of(model, source, [START])[-1]
    scores = {}
    for one in range(13):
        row = log_softmax(first)[one]
        then = log_softmax(logits_of(model, source, [START, one])[-1])
        if one == END:
            scores[one,] = row
        else:
            scores |= {(one, two): (row + then[two]) / 2**0.7 for two in range(13)}
    best = sorted(scores, key=lambda ids: -scores[ids])[:5]
    ask = Settings(
        max_new_tokens=2, num_beams=13, num_return_sequences=5, length_penalty=0.7
    )
    found = model.generate([source], ask, return_details=True)
    assert [tuple(row) for row in lists(found.token_ids)] == best
    expected = np.array([scores[ids] for ids in best])
    assert relative_error(np.asarray(found.scores), expected) <= 1e-5


def log_softmax(logits):
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


@pytest.mark.parametrize(
    "side", ["left", pytest.param("right", marks=pytest.mark.slow)]
)
def test_padding_of_sources_changes_nothing(translator, side):
    ids, mask = np.full((3, 5), 11), np.zeros((3, 5), bool)
    for row, source in enumerate(SOURCES):
        at = slice(len(source)) if side == "right" else slice(5 - len(source), None)
        ids[row, at], mask[row, at] = source, True
    ask = Settings(max_new_tokens=2, num_beams=2)
    padded = translator.generate({"token_ids": ids, "padding_mask": mask}, ask)
    assert lists(padded) == [lists(translator.generate([s], ask))[0] for s in SOURCES]


def test_drawn_rows_are_the_same_for_the_same_seed(translator):
    def drawn(seed):
        ask = Settings(
            max_new_tokens=2, do_sample=True, num_return_sequences=2, seed=seed
        )
        return lists(translator.generate(SOURCES, ask))

    assert len(drawn(3)) == 6
    assert drawn(3) == drawn(3) != drawn(4)


def test_tokens_may_be_forced_and_suppressed_by_the_model_and_by_settings():
    free = task(transformer(), end_token_id=None)
    banned = lists(free.generate(SOURCES, max_new_tokens=2))[0][1]
    first, last, other = [token for token in (9, 4, 8, 5) if token != banned][:3]
    model = task(
        transformer(),
        end_token_id=None,
        forced_first_token=first,
        forced_last_token=last,
        suppress_tokens=[banned],
    )
    rows = lists(model.generate(SOURCES, max_new_tokens=4))
    assert all(row[0] == first and row[-1] == last for row in rows)
    assert all(banned not in row[1:-1] for row in rows)
    ask = Settings(max_new_tokens=2, forced_first_token=other, num_beams=2)
    assert all(row[0] == other for row in lists(model.generate(SOURCES, ask)))


def test_a_target_continues_its_prefix(model):
    whole = one_by_one(model, SOURCES[0], 4)
    ask = {"max_new_tokens": len(whole) - 2, "prefixes": [whole[:2]]}
    assert lists(model.generate(SOURCES[:1], **ask)) == [whole[2:]]


def test_log_probabilities_are_those_of_the_whole(model):
    targets = [[3, 4, END], [6, 7, 8, 9, END], [END]]
    found = model.score(SOURCES, targets)
    for source, target, log_p in zip(
        SOURCES, targets, found["log_probabilities"], strict=True
    ):
        logits = logits_of(model, source, [START, *target[:-1]])
        expected = [log_softmax(row)[t] for row, t in zip(logits, target, strict=True)]
        assert relative_error(log_p, np.array(expected)) <= 1e-5
    every = np.concatenate(found["log_probabilities"])
    assert found["perplexity"] == pytest.approx(np.exp(-every.mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["bahdanau", "luong"])
def test_alignments_are_the_weights_of_the_steps(kind):
    model = task(BACKBONES[kind]())
    source, target = SOURCES[0], [3, 4, 9]
    (weights,) = model.align([source], [target])
    cache = model.backbone.empty_cache(model.backbone.encode(np.array([source])))
    rows = []
    for token in [START, *target[:-1]]:
        cache = model.backbone.decode(np.array([[token]]), cache=cache)["cache"]
        rows.append(to_numpy(cache[2])[0])
    assert weights.shape == (3, 5)
    assert relative_error(weights, np.array(rows)) <= 1e-5


def test_alignments_of_a_transformer_are_means_over_layers_and_heads():
    translator = task(transformer(num_layers=2))
    source, target = SOURCES[0], [3, 4, 9]
    maps = ka.attention_maps(
        translator.backbone,
        {
            "encoder_token_ids": np.array([source]),
            "decoder_token_ids": np.array([[START, *target[:-1]]]),
        },
    )
    cross = [m for name, m in maps.items() if "cross" in name]
    assert len(cross) == 2
    (weights,) = translator.align([source], [target])
    assert relative_error(weights, np.mean(cross, axis=(0, 1, 2))) <= 1e-5


def test_the_decoder_reads_targets_one_token_later(translator):
    pairs = translator.batches(
        [[5, 6, 7], [8]], [[3, END], [4, 9, 6, END]], shuffle=False
    )
    inputs, labels = pairs.batch_of([0, 1])
    assert inputs["encoder_token_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert inputs["encoder_padding_mask"].tolist() == [[True] * 3, [True, False, False]]
    assert labels.tolist() == [[3, END, -100, -100], [4, 9, 6, END]]
    assert inputs["decoder_token_ids"].tolist() == [[1, 3, END, 0], [1, 4, 9, 6]]
    assert np.array_equal(inputs["decoder_padding_mask"], labels != -100)
    wide = translator.batches([[5]], [[3]], pad_to_multiple_of=4)
    inputs, labels = wide.batch_of([0])
    assert inputs["encoder_token_ids"].shape == labels.shape == (1, 4)


def test_padding_does_not_change_the_loss(translator):
    def loss(sources, targets):
        inputs, labels = translator.batches(sources, targets).batch_of(
            range(len(sources))
        )
        return float(translator.compile_arguments()["loss"](labels, translator(inputs)))

    targets = [[3, 4, 5, END], [6, END]]
    alone = [loss([s], [t]) for s, t in zip(SOURCES, targets, strict=False)]
    both = loss(SOURCES[:2], targets)
    assert both == pytest.approx((4 * alone[0] + 2 * alone[1]) / 6, rel=1e-5)


def test_texts_are_read_and_written():
    backbone = ka.RecurrentSeq2Seq(256, 5, 6)
    model = task(backbone, tokenizer=Bytes(), start_token_id=0, end_token_id=10)
    ids = model.generate([list(b"abc")], max_new_tokens=5)[0]
    expected = bytes(ids.tolist()).decode(errors="replace")
    assert model.generate(["abc"], max_new_tokens=5) == [expected]
    assert "".join(model.stream("abc", max_new_tokens=5)) == expected
    inputs, labels = model.batches(["ab"], ["xyz"]).batch_of([0])
    assert labels.tolist() == [[*b"xyz", 10]]
    assert inputs["decoder_token_ids"].tolist() == [[0, *b"xyz"]]


def test_beams_end_at_a_stop_string():
    model = task(ka.RecurrentSeq2Seq(256, 5, 6), tokenizer=Bytes(), end_token_id=None)
    common = {"num_beams": 3, "max_new_tokens": 4}
    whole = model.generate(["abc"], Settings(**common))[0]
    ask = Settings(**common, stop_strings=[whole[1:3]], length_penalty=-9.0)
    found = model.generate(["abc"], ask)[0]
    assert found.endswith(whole[1:3]) or len(found) == 4
    assert found != whole
    never = Settings(**common, stop_strings=["never met"])
    assert model.generate(["abc"], never)[0] == whole


def test_a_saved_task_is_loaded_with_its_settings(tmp_path, translator):
    translator.save(tmp_path / "model.keras")
    loaded = ka.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == translator.get_config()
    expected = lists(translator.generate(SOURCES, max_new_tokens=3))
    assert lists(loaded.generate(SOURCES, max_new_tokens=3)) == expected


def test_the_last_new_token_needs_no_position(translator):
    settings = {"stop_token_ids": [], "num_beams": 1}
    answers = translator.generate([[3] * 17], Settings(max_new_tokens=17, **settings))
    ids = [START]
    for _ in range(17):
        inputs = {"encoder_token_ids": [[3] * 17], "decoder_token_ids": [ids]}
        inputs = {name: np.array(value) for name, value in inputs.items()}
        logits = to_numpy(translator.backbone(inputs)["logits"])
        ids.append(int(logits[0, -1].argmax()))
    assert answers[0].tolist() == ids[1:]


def test_bad_input_is_refused(translator):
    generate = translator.generate
    for ask, match in (
        (lambda: generate([]), "no prompt"),
        (lambda: generate([[3], []], max_new_tokens=2), "sources of \\[1, 0\\] tokens"),
        (lambda: generate([[3] * 18], max_new_tokens=2), "a source of 18 tokens"),
        (lambda: generate([[3]], max_new_tokens=18), "has 17 positions"),
        (lambda: generate([[13]], max_new_tokens=2), "from 0 to 12. Received: 13"),
        (lambda: generate("text"), "wrap a single one"),
        (lambda: generate(["text"]), "needs a tokenizer"),
        (lambda: translator.score([[3]], [[4], [5]]), "1 sources, 2 targets"),
        (lambda: translator.score([[3]], [[]]), "at least one token"),
        (lambda: ka.Seq2SeqLM(transformer()), "needs a first token"),
    ):
        with pytest.raises(ValueError, match=match):
            ask()


def test_a_folder_of_weights_is_loaded_as_a_task_or_as_a_backbone(tmp_path):
    shape = {"position_offset": 2, "normalize_embedding": True, "use_logits_bias": True}
    model = task(transformer(**shape), forced_last_token=4, suppress_tokens=[7])
    ka.save_pretrained(model, tmp_path / "task")
    loaded = ka.from_pretrained(tmp_path / "task")
    assert isinstance(loaded, ka.Seq2SeqLM)
    ours, theirs = model.get_config(), loaded.get_config()
    for name in ("start_token_id", "end_token_id", "forced_last_token"):
        assert theirs[name] == ours[name], name
    assert loaded.suppress_tokens == (7,)
    loaded.compiled = False
    expected = lists(model.generate(SOURCES, max_new_tokens=3))
    assert lists(loaded.generate(SOURCES, max_new_tokens=3)) == expected
    ka.save_pretrained(model.backbone, tmp_path / "backbone")
    again = ka.from_pretrained(tmp_path / "backbone")
    assert (again.start_token_id, again.end_token_id) == (2, 2)  # BART's
    alone = ka.from_pretrained(tmp_path / "backbone", task="backbone")
    assert isinstance(alone, ka.Seq2SeqTransformer)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", BACKBONES)
def test_compiled_loops_write_the_same_and_compile_once(kind):
    eager = task(BACKBONES[kind]())
    compiled = ka.Seq2SeqLM(
        eager.backbone, start_token_id=START, end_token_id=END, compiled=True
    )
    modes = {}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}
    for mode in modes:
        ask = Settings(max_new_tokens=6, **mode)
        expected = lists(eager.generate(SOURCES, ask))
        assert lists(compiled.generate(SOURCES, ask)) == expected
    before = compiled.generator.num_traces
    for source, mode in itertools.product(([[4] * n] * 3 for n in (2, 9)), modes):
        compiled.generate(source, Settings(max_new_tokens=5, **mode))
    assert compiled.generator.num_traces == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_learns_pairs_of_texts():
    keras.utils.set_random_seed(0)
    pairs = {"ab c": "xy", "b": "yzy", "c a": "z", "a": "x z"}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcxyz", "##b", "##y", "##z"]
    tokenizer = ka.WordPieceTokenizer(tokens)
    model = ka.Seq2SeqLM(ka.RecurrentSeq2Seq(13, 16, 32), tokenizer)
    assert (model.start_token_id, model.end_token_id) == (2, 3)
    batches = model.batches([*pairs], [*pairs.values()], batch_size=2)
    model.compile(keras.optimizers.Adam(0.02), **model.compile_arguments())
    model.fit(batches, epochs=60, verbose=0)
    assert model.generate([*pairs], max_new_tokens=7) == [*pairs.values()]
