"""Fine-tune a real encoder: which of 150 things does a customer want?

all-MiniLM-L6-v2 with a linear head, trained on the 15,000 questions of clinc150
(Larson et al., 2019) and tested on its 4,500. `--frozen` trains only the head.

Expected: held-out accuracy 0.96 after 28 minutes (two epochs; 0.93 after one), and 0.94
after 4.5 minutes with `--frozen`, measured on two cores that had other work as well.
Needs "keras-attention-layers[text]" and the weights.
"""

import json
import time

import _shared
import keras

import keras_attention as ka

SOURCE = (
    "https://raw.githubusercontent.com/clinc/oos-eval/"
    "828f8093932c8fe6ca7936c3d2e52903b1c523de/data/data_full.json"
)
SHA256 = "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0"
TRY = ["my card got swallowed by the machine", "how do i say good night in french"]


def main():
    parser = _shared.parser(__doc__)
    _shared.add_weights(parser)
    _shared.add_training(parser, epochs=2, examples="questions")
    options = parser.parse_args()
    keras.utils.set_random_seed(1)
    content = _shared.data_file(options.data, "data_full.json", SOURCE, SHA256)
    parts = json.loads(content)
    train, test = parts["train"], parts["test"]
    if options.limit:
        train = train[:: max(1, len(train) // options.limit)]
        test = test[:: max(1, len(test) // options.limit)]
    names = sorted({label for _, label in parts["train"]})

    sentence_model = ka.from_pretrained(_shared.folder(options.weights))
    model = ka.TextClassifier(
        sentence_model.encoder, names, sentence_model.tokenizer, pooling="mean"
    )
    start = time.perf_counter()
    ka.fine_tune(
        model,
        model.batches(*zip(*train, strict=True)),
        epochs=20 if options.frozen else options.epochs,
        learning_rate=1e-1 if options.frozen else 2e-4,
        freeze_backbone=options.frozen,
    )
    minutes = (time.perf_counter() - start) / 60
    texts, labels = zip(*test, strict=True)
    answers = model.classify(list(texts), verbose=True)
    right = sum(a["label"] == b for a, b in zip(answers, labels, strict=True))
    print(f"\nheld-out accuracy {right / len(labels):.3f} of {len(labels)} questions")
    print(f"trained in {minutes:.1f} minutes")
    for text, answer in zip(TRY, model.classify(TRY), strict=True):
        print(f"  {answer['label']} {answer['score']:.2f}  {text}")


if __name__ == "__main__":
    main()
