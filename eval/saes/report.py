"""The report of an SAE study: one HTML file, CSVs and PNGs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from eval.saes.families import Family, families
from eval.figures import QUANTITIES, interactive_figure, write_static_figure
from eval.page.sections import Panel, Section, Verdict, table_for_people, write_page
from eval.saes.verdicts import compare_all, sentences, verdict_table
from core.files import write_atomically

_COLUMN_NOTE = (
    "One row per SAE; click a column's name to sort. R² is 1 - SSE/SST on held-out documents, about the mean of the same "
    "rows; r_squared_all_rows counts norm outliers too. L0 counts non-zero latents of either sign. A latent is dead when "
    "it fires on none of n_tokens."
)


_FIRST_COLUMNS = [
    "hook_name", "architecture", "d_sae", "sparsity_coefficient", "seed", "l0", "r_squared", "dead_fraction", "bipolar_fraction",
    "n_params",
]  # fmt: skip


class StudyFacts(NamedTuple):
    """What every report says of its study."""

    name: str
    config_text: str
    """The resolved study, YAML."""
    environment: dict[str, Any]
    """Versions and hardware."""
    stages: list[dict[str, Any]]
    """Seconds and peak memory of each stage run."""


class Provenance(NamedTuple):
    """What the figures were made of."""

    study: StudyFacts
    manifest: dict[str, Any]
    """Of the activations."""
    stopped: dict[str, str]
    """SAEs that diverged, and so are in no table or curve, with the reason."""


class ReportFiles(NamedTuple):
    """What was written."""

    html: Path
    pngs: list[Path]
    csvs: list[Path]


def write_report(folder: Path, table: pd.DataFrame, provenance: Provenance) -> ReportFiles:
    """Write ``report.html``, ``verdicts.csv`` and ``plots/*.png`` into ``folder`` from the table of `eval.csv`."""
    found = families(table)
    by_hook: dict[str, list[Family]] = {}
    for family in found:
        by_hook.setdefault(family.hook_name, []).append(family)
    comparisons = compare_all(table)
    verdicts = [Verdict(f"{c.hook_name}: {c.a.label} against {c.b.label}", sentences(c)) for c in comparisons]
    panels = [
        Panel(f"{hook_name}: {quantity.short} against L0", interactive_figure(of_hook, quantity))
        for hook_name, of_hook in by_hook.items()
        for quantity in QUANTITIES
    ]
    sections = [
        Section(
            "Verdicts",
            verdicts=verdicts or [Verdict("", ["The study holds no pair of a sign-aware and a Gated family."])],
        ),
        Section(
            "Fronts",
            note="Lines join the seed means; a band spans the lowest and highest seed.",
            panels=panels,
        ),
        Section("SAEs", note=_COLUMN_NOTE, table=table_for_people(table, _FIRST_COLUMNS, "sae_id")),
        Section("Activations", facts=activation_facts(provenance.manifest)),
        *closing_sections(provenance.study, [(f"stopped: {one}", why) for one, why in provenance.stopped.items()]),
    ]
    html = folder / "report.html"
    write_page(
        html, f"{provenance.study.name}: sparse autoencoders compared", _lead(table, provenance.manifest), sections
    )
    verdicts_csv = folder / "verdicts.csv"
    write_atomically(verdicts_csv, lambda path: verdict_table(comparisons).to_csv(path, index=False))
    pngs = []
    for quantity in QUANTITIES:
        png = folder / "plots" / f"{quantity.column}.png"
        write_atomically(png, lambda path, q=quantity: _save_png(path, by_hook, q))
        pngs.append(png)
    return ReportFiles(html, pngs, [folder / "eval.csv", verdicts_csv])


def _save_png(path: Path, by_hook: dict[str, list[Family]], quantity: Any) -> None:
    with path.open("wb") as handle:
        write_static_figure(handle, by_hook, quantity)


def _lead(table: pd.DataFrame, manifest: dict[str, Any]) -> str:
    n_seeds = table["seed"].nunique()
    return (
        f"{len(table)} SAEs on {table['hook_name'].nunique()} hookpoint(s) of {manifest['model']}, {n_seeds} seed(s), trained on "
        f"{manifest['n_rows']['train']:,} tokens of {manifest['corpus']} and evaluated on {manifest['n_rows']['held_out']:,} "
        "tokens of other documents."
    )


def activation_facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """What a manifest says, for people."""
    dropped = manifest["n_dropped"]
    facts = [
        ("Model", f"{manifest['model']} ({manifest['revision']}), computed in {manifest['model_dtype']}"),
        ("Model hash", manifest["model_hash"]),
        (
            "Corpus",
            f"{manifest['corpus']}, {manifest['n_documents']:,} documents read, {manifest['n_tokens']:,} tokens",
        ),
        (
            "Rows",
            f"{manifest['n_rows']['train']:,} for training, {manifest['n_rows']['held_out']:,} held out",
        ),
        (
            "Rows dropped",
            f"{dropped['first_position']:,} first positions, {dropped['special_tokens']:,} special tokens",
        ),
    ]
    n_rows = sum(manifest["n_rows"].values())
    for name, hook in manifest["hooks"].items():
        bound = "no norm filter" if hook["norm_bound"] is None else f"norm over {hook['norm_bound']:.4g}"
        facts.append(
            (
                name,
                f"d_in {hook['d_in']}, mean norm {hook['mean_norm']:.4g}, {hook['n_outliers']:,} of {n_rows:,} rows left out "
                f"({bound}), relative storage error {hook['storage_relative_error']:.2g}",
            )
        )
    return facts


def closing_sections(study: StudyFacts, first_facts: Sequence[tuple[str, str]] = ()) -> list[Section]:
    """How a report ends: versions, hardware, stages, and the whole study."""
    facts = [*first_facts, *((name, str(value)) for name, value in study.environment.items())]
    for stage in study.stages:
        memory = f"{stage['peak_memory_bytes'] / 1e9:.2f} GB peak memory"
        facts.append((f"stage {stage['stage']}", f"{stage['seconds']:.0f} s, {memory}"))
    return [Section("Run", facts=facts), Section("Study", text=study.config_text)]
