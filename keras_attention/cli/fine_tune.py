"""`keras-attention fine-tune`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_attention.cli.console import (
    console,
    errors,
    failing_clearly,
    json_option,
    print_json,
    print_table,
    shown,
    start_tensorflow,
    working,
)

TASKS = "classify, tag, answer, embed, generate, translate or fill"


def fine_tune(
    model: Annotated[
        Path, typer.Argument(help="A Hugging Face folder, or a .keras file.")
    ],
    data: Annotated[
        list[Path],
        typer.Argument(help="Files of examples: csv, tsv, jsonl, txt, conll; .gz too."),
    ],
    out: Annotated[Path, typer.Argument(help="The new folder of the trained model.")],
    task: Annotated[str, typer.Option("--task", "-t", help=f"{TASKS}.")] = "classify",
    validation: Annotated[
        Path | None, typer.Option(help="A file of examples that are not trained on.")
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(help="Share of DATA that is held out, without --validation."),
    ] = 0.1,
    column: Annotated[
        list[str] | None,
        typer.Option(help="A column of DATA: text=review, label=stars; repeatable."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="epochs=3, learning_rate=2e-5, …; repeatable."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer, if MODEL has none.")
    ] = None,
    export: Annotated[
        str | None, typer.Option(help="Export it too: saved_model, onnx or litert.")
    ] = None,
    as_json: bool = json_option(),
) -> None:
    """Train a model on files of examples, and report its scores on held-out ones."""
    with failing_clearly(as_json):
        settings = {name: _value(x) for name, x in map(_pair, setting or ())}
        columns = dict(map(_pair, column or ()))
        _check_free(out)
        with working("Loading TensorFlow and the model", quiet=as_json):
            start_tensorflow()
            source, of_folder = _load(model, tokenizer)
        from keras_attention.training.from_files.running import run_fine_tuning

        trained, report = run_fine_tuning(
            source,
            task,
            data,
            tokenizer=of_folder,
            validation=validation,
            hold_out=hold_out,
            columns=columns,
            settings=settings,
            verbose=False if as_json else 1 if errors.is_terminal else 2,
        )
        with working("Saving", quiet=as_json) as update:
            _save(trained, out, report)
            if export is not None:
                update("Exporting")
                from keras_attention.export.api import export_model

                report["exported"] = str(export_model(trained, out / export, export))
        if as_json:
            print_json(report)
            return
        scores = [(name, f"{score:.4f}") for name, score in report["scores"].items()]
        print_table(("held-out", "score"), scores)
        if report["cut"]:
            console.print(
                f"{report['cut']} texts fill the model: what is behind is not read"
            )
        console.print(f"Written to [bold]{shown(report['path'])}[/bold]")
        console.print(f"The report is {shown(out / 'report.html')}")
        if export is not None:
            console.print(f"Exported to [bold]{shown(report['exported'])}[/bold]")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(
            "`--set` and `--column` take a name and a value, e.g. --set epochs=3. "
            f"Received: {text!r}"
        )
    return name, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            "The folder of the trained model must be new or empty; nothing is "
            f"overwritten. Received: {out}"
        )


def _load(path: Path, tokenizer: Path | None) -> tuple[Any, Any]:
    """Returns the model, and the tokenizer of the folder if the model has none."""
    from keras_attention.cli.export import load_model
    from keras_attention.weights.tokenizers_hf import has_tokenizer, load_tokenizer

    model = load_model(path)
    folder = path if tokenizer is None else tokenizer
    if getattr(model, "tokenizer", None) is not None or not has_tokenizer(folder):
        return model, None
    return model, load_tokenizer(folder, getattr(model, "backbone", model))


def _save(model: Any, out: Path, report: dict[str, Any]) -> None:
    """Writes the model and the report, with the path that other commands take.

    It is that of a folder in Hugging Face's format, or of a .keras file for a model
    that this format does not have.
    """
    from keras_attention.training.from_files.report import report_page
    from keras_attention.weights.pretrained import save_pretrained

    out.mkdir(parents=True, exist_ok=True)
    try:
        save_pretrained(model, out)
        report["path"] = str(out)
    except ValueError:
        model.save(out / "model.keras")
        report["path"] = str(out / "model.keras")
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / "report.json").write_text(text, encoding="utf-8")
    (out / "report.html").write_text(report_page(report), encoding="utf-8")
