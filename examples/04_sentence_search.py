"""Sentence search with a real model that takes raw strings.

Loads all-MiniLM-L6-v2, exports it to a SavedModel with the tokenizer inside, opens it
as TF Serving does, and searches Python's documentation. The search does not use Keras.

Expected: for each question the three nearest paragraphs with their cosine. Needs
"keras-attention-layers[text]" and the weights; about a minute on two cores.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import _shared
import numpy as np

import keras_attention as ka

QUESTIONS = [
    "How do I run code whether or not there was an error?",
    "When are two objects equal?",
]


def main():
    parser = _shared.parser(__doc__)
    _shared.add_weights(parser)
    parser.add_argument("--passages", type=int, default=300, help="searched (300)")
    parser.add_argument("questions", nargs="*", default=QUESTIONS, help="(two)")
    options = parser.parse_args()
    texts = [
        " ".join(text.split()) for text in "\n\n".join(topics.values()).split("\n\n")
    ]
    texts = [text for text in texts if 80 <= len(text) <= 400 and text.endswith(".")]
    # Every n-th paragraph, sorted: batches of similar lengths need little padding.
    texts = sorted(texts[:: max(1, len(texts) // options.passages)], key=len)

    model = ka.from_pretrained(_shared.folder(options.weights))
    print(model.load_report)
    with tempfile.TemporaryDirectory() as out:
        folder = ka.export_model(model, Path(out), signatures=["serving_default"])
        with ka.open_artifact(folder) as artifact:

            def embed(texts):
                answer = artifact.run("serving_default", text=texts)
                return answer["sentence_embedding"]

            batches = [texts[i : i + 32] for i in range(0, len(texts), 32)]
            vectors = np.concatenate([embed(batch) for batch in batches])
            scores = embed(options.questions) @ vectors.T
    print(f"searched {len(texts)} paragraphs")
    for question, row in zip(options.questions, scores, strict=True):
        print(f"\n{question}")
        for index in np.argsort(-row)[:3]:
            print(f"  {row[index]:.2f}  {texts[index][:100]} …")


if __name__ == "__main__":
    main()
