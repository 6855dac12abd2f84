"""WordPieceTokenizer against Hugging Face's tokenizers, same sentences and ids."""

import numpy as np

from benchmarks import corpus
from benchmarks.measure import Progress, Row, Settings, compare, take_turns


def run(settings: Settings, tell: Progress) -> list[Row]:
    from tokenizers import Tokenizer

    import keras_attention as ka

    texts = corpus.sentences(settings.data, 512)
    ours = ka.from_pretrained(corpus.minilm_folder()).tokenizer
    theirs = Tokenizer.from_file(str(corpus.minilm_folder() / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_padding()
    theirs.enable_truncation(ours.max_length)
    rows = []
    for size in (512, 32, 1):
        some = texts[:size]
        calls = {
            "ours": lambda some=some: ours(some)["token_ids"].numpy(),
            "HF tokenizers": lambda some=some: np.array(
                [one.ids for one in theirs.encode_batch(some)]
            ),
        }
        np.testing.assert_array_equal(*(call() for call in calls.values()))
        tell(f"{size} sentences")
        samples = take_turns(calls, settings, tell)
        case = f"{size} sentences at once"
        row = compare("tokenizer", case, samples, *calls, per=size, unit="/s")
        rows.append(row)
    return rows
