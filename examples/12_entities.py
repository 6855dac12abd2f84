"""Fine-tune a real encoder to find names of people, places and products in tweets.

all-MiniLM-L6-v2 with a linear head on each word, trained on the 3,394 sentences of
WNUT-17 (Derczynski et al., 2017), whose 1,287 test sentences contain new names.

Expected: held-out F1 of entities 0.38 (precision 0.56, recall 0.29) after 16 minutes,
measured on two cores that had other work as well. Needs
"keras-attention-layers[text]" and the weights.
"""

import time

import _shared
import keras

import keras_attention as ka

SOURCE = (
    "https://raw.githubusercontent.com/leondz/emerging_entities_17/"
    "e52a2d2a71ac1a051ca2d532eef28653c5c02603/"
)
# Name -> (name at the source, sha256).
FILES = {
    "train.conll": (
        "wnut17train.conll",
        "731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
    ),
    "test.conll": (
        "emerging.test.annotated",
        "2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0",
    ),
}
TRY = ["Angela Merkel met Tim Cook in Berlin to talk about the iPhone."]


def sentences(folder, name, limit):
    """Returns (words, tags) of every sentence of a file."""
    theirs, sha256 = FILES[name]
    content = _shared.data_file(folder, name, SOURCE + theirs, sha256).decode()
    blocks, words = [], []
    for line in [*content.splitlines(), ""]:
        if line.strip():
            words.append(line.split("\t"))
        elif words:
            blocks.append(tuple(zip(*words, strict=True)))
            words = []
    return blocks[:: max(1, len(blocks) // limit)] if limit else blocks


def main():
    parser = _shared.parser(__doc__)
    _shared.add_weights(parser)
    _shared.add_training(parser, epochs=2, examples="sentences")
    options = parser.parse_args()
    keras.utils.set_random_seed(1)
    train = sentences(options.data, "train.conll", options.limit)
    test = sentences(options.data, "test.conll", options.limit)
    names = sorted({tag for _, tags in train for tag in tags}, key=lambda t: t[2:] + t)

    sentence_model = ka.from_pretrained(_shared.folder(options.weights))
    model = ka.TokenClassifier(sentence_model.encoder, names, sentence_model.tokenizer)
    start = time.perf_counter()
    ka.fine_tune(
        model,
        model.batches(*zip(*train, strict=True), batch_size=16),
        epochs=options.epochs,
        learning_rate=1e-3 if options.frozen else 2e-4,
        freeze_backbone=options.frozen,
    )
    minutes = (time.perf_counter() - start) / 60
    words, tags = zip(*test, strict=True)
    scores = ka.entity_scores(tags, model.tag_words(words, verbose=True))
    print(
        f"\nheld-out F1 of entities {scores['f1']:.3f}: precision "
        f"{scores['precision']:.3f}, recall {scores['recall']:.3f}"
    )
    print(f"trained in {minutes:.1f} minutes")
    for text, entities in zip(TRY, model.tag(TRY), strict=True):
        print(text)
        for entity in entities:
            place = f"{entity['start']}:{entity['end']}"
            print(f"  {entity['label']} {entity['text']} {place} {entity['score']:.2f}")


if __name__ == "__main__":
    main()
