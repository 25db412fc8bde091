"""The documentation tells the truth about what can be typed: commands, flags, links, samples."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tvm_mnas.cli import app
from tvm_mnas.space.reference import space_reference

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [
    README,
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "rpc" / "README.md",
    ROOT / "tuning_logs" / "README.md",
]
MOST_README_LINES = 150
MOST_PICTURE_BYTES = 200 * 1024

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SAMPLE = re.compile(
    r"<!-- sample: (?P<name>[\w -]+) -->\n```(?P<language>\w+)\n(?P<code>.*?)```", re.S
)
_CALL = re.compile(r"(?:^|[\s/])tvm-mnas +(?P<names>[a-z]\S*(?: *\| *[a-z]\S*)*)(?P<rest>.*)")
_NAMES = re.compile(r" +(?P<names>[a-z]\S*(?: *\| *[a-z]\S*)*)(?P<rest>.*)")
_FLAG = re.compile(r"(?<!\S)--[a-z][\w-]*")

each_text = pytest.mark.parametrize(
    "text", TEXTS, ids=[str(path.relative_to(ROOT)) for path in TEXTS]
)


@dataclass(frozen=True)
class Call:
    """A command line as a text shows it: the names of a command and the flags behind them."""

    names: tuple[str, ...]
    flags: tuple[str, ...]


def code_lines(text: str) -> Iterator[str]:
    """Yield what `text` shows as code: the lines of its blocks, and its spans, which may run over a line's end."""
    for fence in _FENCE.finditer(text):
        yield from fence["code"].splitlines()
    prose = _FENCE.sub("", text)
    # An indented block is code too.
    yield from (line for line in prose.splitlines() if line.startswith("    "))
    for paragraph in prose.split("\n\n"):
        yield from (" ".join(span.split()) for span in _SPAN.findall(paragraph))


def calls_in(line: str) -> Iterator[Call]:
    """Yield the calls in a line of code; `records list | check` are two."""
    for part in re.split(r"&&|;|#", line):
        if (call := _CALL.search(part)) is None:
            continue
        heads = alternatives(call["names"])
        behind = _NAMES.match(call["rest"])
        group = len(heads) == 1 and heads[0] in groups()
        if group and behind is not None:
            flags = tuple(_FLAG.findall(behind["rest"]))
            subs = alternatives(behind["names"])
            yield from (Call((heads[0], sub), flags if len(subs) == 1 else ()) for sub in subs)
        else:
            flags = tuple(_FLAG.findall(call["rest"])) if len(heads) == 1 else ()
            yield from (Call((head,), flags) for head in heads)


def alternatives(names: str) -> list[str]:
    return [name for name in re.split(r" *\| *", names) if name != "..."]


def groups() -> dict[str, Any]:
    """Return the commands that have commands of their own."""
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    return {name: found for name, found in commands.items() if hasattr(found, "commands")}


def problem_of(call: Call) -> str | None:
    """Return what is wrong with a call, None if it can be typed."""
    found: Any = get_command(app)
    for name in call.names:
        if name not in getattr(found, "commands", {}):
            return f"no command: {' '.join(call.names)}"
        found = found.commands[name]
    known = {"--help", *(option for each in found.params for option in each.opts)}
    unknown = [flag for flag in call.flags if flag not in known]
    return f"{' '.join(call.names)} has no {', '.join(unknown)}" if unknown else None


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_README_LINES


def test_the_pictures_are_small() -> None:
    pictures = list((ROOT / "docs").glob("*.png"))
    assert pictures
    assert {p.name for p in pictures if p.stat().st_size > MOST_PICTURE_BYTES} == set()


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("tvm-mnas search --trials 3  # --nothing", [Call(("search",), ("--trials",))]),
        ("tvm-mnas search|report RUN", [Call(("search",), ()), Call(("report",), ())]),
        (
            "tvm-mnas records list | check",
            [Call(("records", "list"), ()), Call(("records", "check"), ())],
        ),
        (
            "tvm-mnas paper table1|...|figure6",
            [Call(("paper", "table1"), ()), Call(("paper", "figure6"), ())],
        ),
        ("tvm-mnas tune NOTATION | --space x", [Call(("tune",), ("--space",))]),
        ("tvm-mnas device push K --ssh H", [Call(("device", "push"), ("--ssh",))]),
        (".venv/bin/tvm-mnas zoo && ls", [Call(("zoo",), ())]),
        ("tvm-mnas: error: none", []),
    ],
)
def test_calls_are_found(line: str, calls: list[Call]) -> None:
    assert list(calls_in(line)) == calls


def test_a_wrong_call_is_a_problem() -> None:
    assert problem_of(Call(("search",), ("--trials", "--help"))) is None
    assert problem_of(Call(("searches",), ())) is not None
    assert problem_of(Call(("records", "lists"), ())) is not None
    assert problem_of(Call(("search",), ("--trails",))) is not None


@each_text
def test_every_command_and_flag_exists(text: Path) -> None:
    lines = code_lines(text.read_text(encoding="utf-8"))
    problems = {problem_of(call) for line in lines for call in calls_in(line)}
    assert problems - {None} == set()


def test_commands_are_found_in_the_readme() -> None:
    lines = code_lines(README.read_text(encoding="utf-8"))
    shown = {call.names[0] for line in lines for call in calls_in(line)}
    assert set(get_command(app).commands) - shown == set(), "not in the README's tour"  # type: ignore[attr-defined]


@each_text
def test_every_relative_link_resolves(text: Path) -> None:
    prose = _FENCE.sub("", text.read_text(encoding="utf-8"))
    targets = {link.partition("#")[0] for link in _LINK.findall(prose) if "://" not in link}
    assert {target for target in targets if not (text.parent / target).exists()} == set()


def test_the_navigation_has_every_page_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"[\w-]+\.md", navigation)
    assert sorted(named) == [page.name for page in PAGES]


@each_text
def test_every_python_sample_imports_what_exists(text: Path) -> None:
    missing = set()
    for fence in _FENCE.finditer(text.read_text(encoding="utf-8")):
        if fence["language"] != "python":
            continue
        for node in ast.walk(ast.parse(fence["code"])):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tvm_mnas"):
                module = importlib.import_module(str(node.module))
                missing |= {a.name for a in node.names if not hasattr(module, a.name)}
    assert missing == set()


def test_the_modules_of_the_reference_exist() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    modules = re.findall(r"^::: (\S+)$", reference, re.MULTILINE)
    assert modules
    for module in modules:
        importlib.import_module(module)


def samples(language: str) -> dict[str, str]:
    """Return the marked samples of all pages, by name."""
    found = [m for page in PAGES for m in _SAMPLE.finditer(page.read_text(encoding="utf-8"))]
    return {match["name"]: match["code"] for match in found if match["language"] == language}


def test_the_page_of_the_space_file_is_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "space-file.md").read_text(encoding="utf-8")
    assert page.endswith(f"\n\n{space_reference()}\n"), "paste `tvm-mnas space reference`"


def test_the_sample_of_an_entry_point_is_toml() -> None:
    groups_named = tomllib.loads(samples("toml")["data source"])["project"]["entry-points"]
    assert set(groups_named) == {"tvm_mnas.data_sources"}
