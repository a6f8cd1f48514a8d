"""Documentation that cannot rot: links exist, every module and command is named, every example is a valid study."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.cli import app
from pipeline.studies.saes.study import RunConfig
from pipeline.study_file import load_study

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf8")
HOW_TO = (ROOT / "docs/how-to/own-model.md").read_text(encoding="utf8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("package", ["pipeline", "hookpoints", "saes", "twolayer", "eval"])
def test_readme_names_every_module(package):
    for module in (ROOT / package).glob("*.py"):
        if module.name != "__init__.py":
            assert re.search(rf"^ +{module.name} ", README, re.MULTILINE), (
                f"README's file tree lacks {package}/{module.name}"
            )


def test_every_command_is_documented():
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        assert re.search(rf"\b{name}\b", README), name
        assert command.callback is not None
        assert command.callback.__doc__


def test_examples_of_the_how_to_are_valid_studies():
    demo = load_study(ROOT / "configs/demo.yaml").model_dump(mode="json")
    n_checked = 0
    for block in re.findall(r"```yaml\n(.*?)```", HOW_TO, re.DOTALL):
        pieces = block.splitlines() if block.startswith(("model:", "corpus:")) else [block]
        for piece in pieces:
            given = yaml.safe_load(piece)
            RunConfig.model_validate({**demo, **given})
            n_checked += 1
    assert n_checked == 9


def test_every_setting_has_a_description():
    from pydantic import BaseModel

    from hookpoints import corpus, harvest, labels, models, sites
    from pipeline import config, network_config

    for module in (corpus, harvest, labels, models, sites, config, network_config):
        for schema in vars(module).values():
            if isinstance(schema, type) and issubclass(schema, BaseModel):
                for name, field in schema.model_fields.items():
                    assert field.description, f"{schema.__name__}.{name}"
