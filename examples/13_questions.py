"""Fine-tune a real encoder to answer questions with a span of a text.

all-MiniLM-L6-v2 with two logits per token, on the English part of XQuAD (Artetxe et
al., 2020): it is trained on the questions about 40 articles and tested on those about
the other 8. That is a hundredth of SQuAD, so the scores show that the model learns, not
how good it can become.

Expected: exact match 0.11 and F1 0.17 of 230 questions after 16 minutes, measured on
two cores that had other work as well. Needs "keras-attention-layers[text]" and the
weights.
"""

import json
import re
import string
import time
from collections import Counter

import _shared
import keras

import keras_attention as ka

SOURCE = (
    "https://raw.githubusercontent.com/google-deepmind/xquad/"
    "7d30520c717524000f0d9d2f9c10a069acd9d285/xquad.en.json"
)
SHA256 = "e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29"


def questions(articles):
    """Yields (question, context, answer) of every question of some articles."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answer = question["answers"][0]
                answer = {"text": answer["text"], "start": answer["answer_start"]}
                yield question["question"], paragraph["context"], answer


def words(text):
    """Returns an answer's words without articles and punctuation, as SQuAD does."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(answer, expected):
    """Returns the F1 score of the words that two answers share."""
    ours, theirs = words(answer), words(expected)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def main():
    parser = _shared.parser(__doc__)
    _shared.add_weights(parser)
    _shared.add_training(parser, epochs=3, examples="questions")
    options = parser.parse_args()
    keras.utils.set_random_seed(1)
    content = _shared.data_file(options.data, "xquad.en.json", SOURCE, SHA256)
    articles = json.loads(content)["data"]
    held_out = articles[::6]
    train = [article for index, article in enumerate(articles) if index % 6]
    train, test = list(questions(train)), list(questions(held_out))
    if options.limit:
        train = train[:: max(1, len(train) // options.limit)]
        test = test[:: max(1, len(test) // options.limit)]

    sentence_model = ka.from_pretrained(_shared.folder(options.weights))
    tokenizer = sentence_model.tokenizer
    model = ka.QuestionAnswerer(sentence_model.encoder, tokenizer)
    start = time.perf_counter()
    ka.fine_tune(
        model,
        model.batches(*zip(*train, strict=True), batch_size=8),
        epochs=options.epochs,
        learning_rate=1e-3 if options.frozen else 2e-4,
        freeze_backbone=options.frozen,
    )
    minutes = (time.perf_counter() - start) / 60
    to_answer, contexts, expected = zip(*test, strict=True)
    answers = model.answer(to_answer, contexts, verbose=True)
    pairs = [(a["text"], b["text"]) for a, b in zip(answers, expected, strict=True)]
    exact = sum(words(a) == words(b) for a, b in pairs) / len(pairs)
    overlap = sum(f1(a, b) for a, b in pairs) / len(pairs)
    print(f"\nheld-out exact match {exact:.3f}, F1 {overlap:.3f} of {len(pairs)}")
    print(f"trained on {len(train)} questions in {minutes:.1f} minutes")
    for question, answer in zip(to_answer[:3], answers[:3], strict=True):
        print(f"  {question}\n    {answer['text']} ({answer['score']:.2f})")


if __name__ == "__main__":
    main()
