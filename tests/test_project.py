"""What the project shows to the world: workflows, forms and metadata that agree with each other."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import tvm_mnas

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(
    path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"
)
PRE_COMMIT = ROOT / ".pre-commit-config.yaml"

HOOKS_OF = {"ruff-pre-commit": "ruff", "mirrors-mypy": "mypy"}
"""Repositories of hooks that carry a tool, and its name in constraints.txt."""

each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def constraints() -> dict[str, str]:
    """Return the pinned versions by name."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in load(workflow)["jobs"].values():
        yield from job["steps"]


def classified_pythons() -> list[str]:
    prefix = "Programming Language :: Python :: "
    named = [name.removeprefix(prefix) for name in PROJECT["classifiers"] if prefix in name]
    return [name for name in named if re.fullmatch(r"3\.\d+", name)]


def test_there_are_the_workflows_and_forms() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "wheel"]
    assert [path.stem for path in FORMS] == ["bug", "feature"]
    assert load(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["blank_issues_enabled"] is False


@each_workflow
def test_a_workflow_may_only_read(workflow: Path) -> None:
    loaded = load(workflow)
    assert loaded["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in loaded["jobs"].values())
    checkouts = [s for s in steps(workflow) if s.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(loaded["jobs"])
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@each_workflow
def test_a_workflow_has_a_time_limit_and_stops_for_a_newer_push(workflow: Path) -> None:
    loaded = load(workflow)
    assert "github.ref" in loaded["concurrency"]["group"]
    assert all(0 < job["timeout-minutes"] <= 60 for job in loaded["jobs"].values())


@each_workflow
def test_actions_are_pinned_by_commit_with_their_release_beside_it(workflow: Path) -> None:
    """A tag can be moved to other code. Dependabot moves commit and release together."""
    lines = [line for line in workflow.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert lines
    pinned = re.compile(r"\s+- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in lines if not pinned.fullmatch(line)] == []


@each_workflow
def test_a_workflow_runs_targets_that_the_makefile_has(workflow: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    run = [shlex.split(step["run"]) for step in steps(workflow) if "run" in step]
    assert run
    assert {command[-1] for command in run if "make" in command} - targets == set()
    assert all("make" in command for command in run)


@each_workflow
def test_a_workflow_keeps_what_pip_fetched(workflow: Path) -> None:
    setups = [s["with"] for s in steps(workflow) if "setup-python@" in s.get("uses", "")]
    assert setups
    for setup in setups:
        assert setup["cache"] == "pip"
        watched = setup["cache-dependency-path"].split()
        assert watched
        assert [name for name in watched if not (ROOT / name).is_file()] == []


def test_the_tests_run_on_the_pythons_that_the_package_names() -> None:
    tested = load(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == classified_pythons()


def test_requires_python_begins_with_the_oldest_python_named() -> None:
    required = SpecifierSet(PROJECT["requires-python"])
    named = classified_pythons()
    assert named
    assert all(f"{version}.0" in required for version in named)
    oldest = min(int(version.removeprefix("3.")) for version in named)
    assert f"3.{oldest - 1}.99" not in required


@each_workflow
def test_what_runs_once_runs_on_the_oldest_python(workflow: Path) -> None:
    setups = [s["with"] for s in steps(workflow) if "setup-python@" in s.get("uses", "")]
    fixed = {setup["python-version"] for setup in setups} - {"${{ matrix.python }}"}
    assert fixed == {classified_pythons()[0]}


@each_form
def test_a_form_is_one_that_github_shows(form: Path) -> None:
    loaded = load(form)
    assert {"name", "description", "body"} <= set(loaded)
    asked = [field for field in loaded["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in asked]
    assert len(set(names)) == len(names) > 0
    for field in asked:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]


def test_the_form_for_bugs_asks_for_what_an_answer_needs() -> None:
    fields = {
        field["id"]: field
        for field in load(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]
        if "id" in field
    }
    needed = {name for name, field in fields.items() if field["validations"]["required"]}
    assert needed == {"version", "command", "error", "profile", "doctor"}
    assert "tvm-mnas --version" in fields["version"]["attributes"]["description"]
    assert "tvm-mnas device doctor" in fields["doctor"]["attributes"]["description"]


def test_dependabot_watches_the_actions_and_the_packages() -> None:
    updates = load(GITHUB / "dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "pip"}
    pins = constraints()
    ignored = [rule["dependency-name"] for update in updates for rule in update.get("ignore", ())]
    assert ignored
    assert [name for name in ignored if name not in pins] == []


def test_hooks_use_the_versions_of_the_constraints() -> None:
    pins = constraints()
    local = []
    for source in load(PRE_COMMIT)["repos"]:
        if source["repo"] == "local":
            local += source["hooks"]
        elif tool := HOOKS_OF.get(source["repo"].rpartition("/")[2]):
            assert source["rev"] == f"v{pins[tool]}"
        else:
            assert re.fullmatch(r"v\d+\.\d+\.\d+", source["rev"])
    assert [hook["id"] for hook in local] == ["ruff-format", "ruff", "mypy"]
    for hook in local:
        program = Path(hook["entry"].split()[0])
        assert program.parent == Path(".venv/bin")
        assert program.name in pins


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert citation["version"] == tvm_mnas.__version__
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["title"].startswith("MnasNet")
    assert paper["authors"][0]["family-names"] == "Tan"


def test_no_room_of_tests_has_a_name_that_pytest_passes_over(
    pytestconfig: pytest.Config,
) -> None:
    passed_over = pytestconfig.getini("norecursedirs")
    tests = ROOT / "tests"
    rooms = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert len(rooms) > 10
    hidden = [
        room
        for room in rooms
        if any(fnmatch(part, pattern) for part in room.parts for pattern in passed_over)
    ]
    assert hidden == []
