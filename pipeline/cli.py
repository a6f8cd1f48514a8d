"""The command line. No logic here: it reads the study, calls a stage and prints one clear error if that fails."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.study import Study

app = typer.Typer(
    name="dipole",
    help="Which sparse autoencoder, at which width, on which hookpoint, and how sure are we?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Study file, for example configs/demo.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Override a value of the study; may be given several times."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Write the report there; the run directory is only read.")
]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"dipole {version('dipole')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def harvest(config: StudyFile, set_: Overrides = None) -> None:
    """Write the model's activations to safetensors shards; nothing to do where a study draws its rows."""
    _run(config, set_, ["harvest"])


@app.command()
def train(config: StudyFile, set_: Overrides = None) -> None:
    """Train every SAE or network of the study that is not trained yet."""
    _run(config, set_, ["train"])


@app.command(name="eval")
def evaluate(config: StudyFile, set_: Overrides = None) -> None:
    """Measure every SAE or network on held-out rows: eval.csv."""
    _run(config, set_, ["eval"])


@app.command()
def report(config: StudyFile, set_: Overrides = None, out: Out = None) -> None:
    """Write report.html with figures, verdicts and tables."""
    _run(config, set_, ["report"], out)


@app.command()
def run(config: StudyFile, set_: Overrides = None) -> None:
    """All stages in order; what is complete is skipped."""
    _run(config, set_, ["harvest", "train", "eval", "report"])


@app.command(name="config")
def show_config(config: StudyFile, set_: Overrides = None) -> None:
    """Print the resolved study and what it will cost; runs nothing."""

    def show() -> None:
        from pipeline.studies import kind_of

        study = _load(config, set_)
        print(study.to_yaml())
        for name, value in kind_of(study).stages().costs(study):
            print(f"# {name + ':':22}{value}")

    _readably(show)


def _load(path: Path, overrides: list[str] | None) -> "Study":
    from pipeline.study_file import load_study

    study, said = load_study(path, overrides or [])
    for line in said:
        print(f"study: {line}", file=sys.stderr)
    return study


def _run(path: Path, overrides: list[str] | None, names: list[str], out: Path | None = None) -> None:
    def work() -> None:
        study = _load(path, overrides)
        from pipeline.run import print_summary, report_elsewhere, run_stages  # imports torch, which takes seconds

        run = run_stages(study, names) if out is None else report_elsewhere(study, out)
        if names[-1] == "report":
            print_summary(study, run)

    _readably(work)


def _readably(work: Callable[[], None]) -> None:
    """Errors that a person can act on are one message; DIPOLE_TRACEBACK=1 shows where they came from."""
    if os.environ.get("DIPOLE_TRACEBACK") == "1":
        work()
        return
    try:
        work()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        print(f"error: {_said(error)}", file=sys.stderr)
        interrupted_by = getattr(error, "signal_number", None)
        raise SystemExit(2 if interrupted_by is None else 128 + interrupted_by) from None
    except KeyboardInterrupt:
        print("interrupted; what is complete is kept, the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        print(
            f"error: {type(error).__name__}: {error}\nThis is a fault of dipole, not of your input: what is complete is kept. "
            "Please report it with what DIPOLE_TRACEBACK=1 shows",
            file=sys.stderr,
        )
        raise SystemExit(70) from None


def _said(error: Exception) -> str:
    """The message; of an error of the system that nobody gave one, the file and what is wrong with it."""
    if isinstance(error, OSError) and str(error).startswith("[Errno") and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def main() -> None:
    """Entry point of the ``dipole`` command."""
    app()


if __name__ == "__main__":
    main()
