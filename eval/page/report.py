"""A report: one description -> ``report.html``, ``verdicts.csv`` and other tables, and ``plots/*.png``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from core.files import write_atomically
from eval.page.sections import Section, write_page
from eval.page.static import write_figures
from hookpoints.manifest import HookEntry, Manifest

VERDICTS = "verdicts.csv"


class StudyFacts(NamedTuple):
    """What every report says of its study."""

    name: str
    config_text: str
    """The resolved study, YAML."""
    environment: Mapping[str, Any]
    """Versions and hardware."""
    stages: Sequence[Mapping[str, Any]]
    """Seconds and peak memory of each stage run."""


class Report(NamedTuple):
    """What a report holds."""

    title: str
    lead: str
    sections: Sequence[Section]
    """Their figures are drawn twice: on the page and as PNGs."""
    tables: Mapping[str, pd.DataFrame]
    """By file name, `verdicts.csv` among them."""


class ReportFiles(NamedTuple):
    """What was written."""

    html: Path
    pngs: list[Path]
    csvs: list[Path]


def write_report(folder: Path, report: Report) -> ReportFiles:
    """Write everything into ``folder``, each file whole."""
    html = folder / "report.html"
    write_page(html, report.title, report.lead, report.sections)
    csvs = [write_table(folder / name, table) for name, table in report.tables.items()]
    figures = [figure for section in report.sections for figure in section.figures]
    return ReportFiles(html, write_figures(folder / "plots", figures), csvs)


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """A CSV file, whole or absent."""
    write_atomically(path, lambda temporary: table.to_csv(temporary, index=False))
    return path


def activation_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What a manifest says, for people."""
    dropped, capture = manifest.n_dropped, manifest.capture
    start = "no BOS token" if not capture.bos_token_ids else f"BOS token {', '.join(map(str, capture.bos_token_ids))}"
    how = "packed" if capture.packing.is_packed else "one in a row"
    facts = [
        ("Model", f"{manifest.model} ({manifest.revision}), computed in {manifest.model_dtype}"),
        ("Model hash", manifest.model_hash),
        ("Corpus", f"{manifest.corpus}, {manifest.n_documents:,} documents read, {manifest.n_tokens:,} tokens"),
        ("Pieces of documents", f"{how} ({capture.packing.reason}), starting with {start}"),
        ("Rows", f"{manifest.n_rows['train']:,} for training, {manifest.n_rows['held_out']:,} held out"),
        ("Rows dropped", f"{dropped.first_position:,} first positions, {dropped.special_tokens:,} special tokens"),
    ]
    n_rows = sum(manifest.n_rows.values())
    for name, hook in manifest.hooks.items():
        facts.append((name, _hook_facts(hook, n_rows)))
    return facts


def _hook_facts(hook: HookEntry, n_rows: int) -> str:
    if hook.norm_bound is None:
        bound = "no norm filter"
    elif hook.norm_gap is None:
        bound = f"norm over {hook.norm_bound:.4g}, a multiple of the median"
    else:
        bound = f"norm over {hook.norm_bound:.4g}, in the gap from {hook.norm_gap[0]:.4g} to {hook.norm_gap[1]:.4g}"
    return (
        f"d_in {hook.d_in}, mean norm {hook.mean_norm:.4g}, {hook.n_outliers:,} of {n_rows:,} rows left out ({bound}); the "
        f"mean holds {hook.mean_energy_fraction:.1%} of the energy; the largest row kept weighs up to "
        f"{hook.largest_kept_norm**2 / hook.mean_squared_centred_norm:,.0f} average rows in R² (||x||² over the mean of "
        f"||x - mean||²); relative storage error {hook.storage_relative_error:.2g}"
    )


def closing_sections(study: StudyFacts, first_facts: Sequence[tuple[str, str]] = ()) -> list[Section]:
    """How a report ends: versions, hardware, stages, and the whole study."""
    facts = [*first_facts, *((name, str(value)) for name, value in study.environment.items())]
    for stage in study.stages:
        memory = f"{stage['peak_memory_bytes'] / 1e9:.2f} GB peak memory"
        facts.append((f"stage {stage['stage']}", f"{stage['seconds']:.0f} s, {memory}"))
    return [Section("Run", facts=facts), Section("Study", text=study.config_text)]
