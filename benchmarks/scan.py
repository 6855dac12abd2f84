"""What it costs to check an artifact, compared with loading it.

An artifact is copied to where nobody else can change it, compared with its manifest and
scanned before a runtime loads it. The target is a tenth of what loading takes.
"""

import tempfile
from pathlib import Path

from benchmarks import hub
from benchmarks.measure import Progress, Row, Settings, compare, take_turns


def run(settings: Settings, progress: Progress) -> list[Row]:
    import keras_attention as ka
    from keras_attention.export.runtimes.opening import RUNTIMES

    model = ka.BertEncoder(**hub.MINILM, activation="gelu_tanh")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for format, runtime in (("saved_model", "tensorflow"), ("onnx", "onnxruntime")):
            progress(f"writing {format}")
            folder = ka.export_model(model, Path(name, format), format, warmup=False)
            files = [folder] if format == "saved_model" else [*folder.glob("*.onnx")]

            def check(file=files[0]):
                from keras_attention.export.scanning.scan import checked_copy

                with checked_copy(file):
                    pass

            def load(file=files[0], runtime=runtime):
                RUNTIMES[runtime].open(file, settings.threads).close()

            calls = {"copy, compare and scan": check, "loading": load}
            samples = take_turns(calls, settings, progress)
            case = f"MiniLM, {format}"
            row = compare("scan", case, samples, *calls, target=10.0)
            row.note = "target: loading takes 10 times as long"
            rows.append(row)
    return rows
