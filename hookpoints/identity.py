"""One check of what a folder of activations is: same model, tokenizer, text and settings, by content."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core.files import write_json
from core.schema import Schema, differences
from hookpoints.config import ModelConfig, model_id
from hookpoints.contents import HarvestContents, ModelContents, RowSettings, model_contents, row_settings
from hookpoints.contexts import CONTEXTS
from hookpoints.corpus import corpus_id, documents
from hookpoints.described import Described
from hookpoints.grow import check_documents
from hookpoints.manifest import PROOF, HarvestNames
from hookpoints.models import LanguageModel, load_model, load_tokenizer
from hookpoints.records import WAY_OUT, parse_record
from hookpoints.sources import SOURCES, corpus_source, is_expected_here, known_sources, model_source, remember
from hookpoints.text import Notes, bos_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IDENTITY = "harvest.json"
_BOS_CHOICES: dict[str, bool | None] = {"null": None, "true": True, "false": False}
Tell = Callable[[str], object]
"""Told what is compared, or cannot be."""


class HarvestRecord(Schema):
    """What a folder is."""

    names: HarvestNames
    """What its model and corpus were called."""
    contents: HarvestContents
    """What its rows are a function of, beside the text."""
    bos_token_ids: dict[str, list[int]]
    """By `prepend_bos` (null, true, false): tokens that would start every piece, so that a study is compared without the
    tokenizer; what the tokenizer refuses is left out."""


def record_of(language_model: LanguageModel, study: Described) -> HarvestRecord:
    """Of a harvest of a loaded model. Raises ValueError where `prepend_bos` asks for a BOS that the tokenizer lacks."""
    prefix = bos_token_ids(language_model.tokenizer, study.harvest.prepend_bos)
    choices = {}
    for name, choice in _BOS_CHOICES.items():
        try:
            choices[name] = bos_token_ids(language_model.tokenizer, choice)
        except ValueError:
            continue
    return HarvestRecord(
        names=HarvestNames(
            model=language_model.model_id,
            revision=language_model.revision,
            n_layers=language_model.n_layers,
            corpus=corpus_id(study.corpus),
        ),
        contents=HarvestContents(model=model_contents(language_model), harvest=row_settings(study.harvest, prefix)),
        bos_token_ids=choices,
    )


def read_harvest_record(folder: Path) -> HarvestRecord:
    """Of a folder that holds a harvest, complete or not."""
    return parse_record(HarvestRecord, folder / IDENTITY)


def keep_record(
    folder: Path, record: HarvestRecord, study: Described, tokenizer: "PreTrainedTokenizerBase"
) -> HarvestRecord:
    """The folder is of these contents and text from now on, or was already; names stay those of the first.

    Raises ValueError, naming what differs, where it holds rows of others, or of nobody knows what. Contexts without rows are
    made anew.
    """
    path, contexts = folder / IDENTITY, folder / "contexts" / CONTEXTS
    holds_rows = any((folder / "records").glob("*/*.json"))
    for file in (path, contexts):
        if holds_rows and not file.is_file():
            raise ValueError(f"{folder} holds rows and no {file.name}, so nobody knows of what: {WAY_OUT}")
    there = read_harvest_record(folder) if path.exists() else None
    if there is not None and holds_rows:
        refuse_differences(folder, there.contents, record.contents)
    is_same = there is not None and there.contents == record.contents
    if (
        is_same
        and contexts.exists()
        and not corpus_source(study.corpus, study.model).is_known(known_sources(folder).corpora)
    ):
        try:
            check_documents(folder / "contexts", documents(study.corpus, tokenizer, Notes()))
        except ValueError:
            if holds_rows:
                raise
            is_same = False
    if there is None or not is_same:
        for file in (contexts, folder / PROOF, folder / SOURCES):
            file.unlink(missing_ok=True)
        write_json(path, record.model_dump(mode="json"))
        there = record
    remember(folder, model=model_source(study.model))
    return there


def check_study(folder: Path, study: Described, tell: Tell) -> HarvestContents:
    """What a folder holds is what a study describes: settings first, then the contents of model and text, where they are not
    known; returns them. Raises ValueError naming what differs; ``dtype: auto`` is content with any."""
    there = check_settings(folder, study)
    _check_model(folder, there.model, study.model, tell)
    _check_text(folder, study, tell)
    return there


def check_settings(folder: Path, study: Described) -> HarvestContents:
    """As `check_study`, of all that is known without the model's and the corpus' files."""
    there = read_harvest_record(folder)
    refuse_differences(folder, there.contents, _as_described(there, study))
    return there.contents


def _as_described(there: HarvestRecord, study: Described) -> HarvestContents:
    """The folder's contents with what the study says in its own words."""
    choice = next(name for name, value in _BOS_CHOICES.items() if value == study.harvest.prepend_bos)
    prefix = there.bos_token_ids.get(choice, [])
    dtype = there.contents.model.dtype if study.model.dtype == "auto" else study.model.dtype
    model = there.contents.model.model_copy(update={"dtype": dtype})
    return HarvestContents(model=model, harvest=row_settings(study.harvest, prefix))


def _check_model(folder: Path, there: ModelContents, model: ModelConfig, tell: Tell) -> None:
    source, known = model_source(model), known_sources(folder).models
    if source.is_known(known):
        if is_expected_here(model) and not source.files:
            tell(f"{model_id(model)} is not on this machine, so its weights are not compared with those of {folder}")
        return
    tell(f"comparing the weights of {model_id(model)} with those of {folder}")
    same_dtype = model.model_copy(update={"dtype": there.dtype})
    now = model_contents(load_model(same_dtype))
    lines = differences(_in(there), _in(now))
    if lines:
        raise ValueError(_refusal(folder, lines))
    remember(folder, model=source)


def _check_text(folder: Path, study: Described, tell: Tell) -> None:
    source, known = corpus_source(study.corpus, study.model), known_sources(folder).corpora
    if source.is_known(known):
        if is_expected_here(study.corpus) and not source.files:
            tell(f"{corpus_id(study.corpus)} is not on this machine, so the text is not compared with that of {folder}")
        return
    tell(f"comparing the text of {corpus_id(study.corpus)} with that of {folder}")
    check_documents(folder / "contexts", documents(study.corpus, load_tokenizer(study.model), Notes()))
    remember(folder, corpus=source)


def refuse_differences(folder: Path, there: HarvestContents, now: HarvestContents) -> None:
    """Raises ValueError, a line for each key that differs."""
    lines = differences(_in(there.model) | _in(there.harvest, "harvest"), _in(now.model) | _in(now.harvest, "harvest"))
    if lines:
        raise ValueError(_refusal(folder, lines))


def _in(part: ModelContents | RowSettings, name: str = "model") -> dict[str, object]:
    return {f"{name}.{key}": value for key, value in part.model_dump(mode="json").items()}


def _refusal(folder: Path, lines: list[str]) -> str:
    listed = "\n".join(f"  {line}" for line in lines)
    return (
        f"{folder} holds activations of another harvest:\n{listed}\nSet that back, or set activations to another folder, or "
        "delete that one"
    )
