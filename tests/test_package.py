"""What is installed: one package with its data, honest dependencies, and a start without heavy imports."""

from __future__ import annotations

import ast
import configparser
import email.message
import email.parser
import math
import os
import re
import resource
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tvm_mnas

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

YARDSTICK = """
import typer
app = typer.Typer()
app.command("one")(lambda: None)
app.command("two")(lambda: None)
app(["--help"])
"""
"""What a start is measured by, on a machine of any speed: the help of a program of two commands, 0.19 s where ours
takes 0.27."""
HEAVY = {"torch", "tvm", "tvm_ffi", "optuna", "matplotlib", "onnx", "scipy"}
"""What must not be imported before a command needs it: each costs from half a second to several."""

IMPORTED_BY_OTHERS = {
    "apache-tvm-ffi": "TVM, and only one version of it works",
    "cloudpickle": "TVM's worker pools",
    "onnxscript": "torch.onnx.export",
    "psutil": "TVM's RPC server and worker pools",
    "tornado": "TVM's tracker",
    "xgboost": "MetaSchedule's cost model",
    "xgboost-cpu": "the same, where it has wheels",
}
"""Dependencies that we don't import ourselves, and who does."""

IMPORT_NAMES = {
    "apache-tvm": "tvm",
    "apache-tvm-ffi": "tvm_ffi",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
"""Distributions that are imported under another name."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(directory), str(ROOT)], check=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="session")
def metadata(wheel: Path, members: set[str]) -> email.message.Message:
    (name,) = (name for name in members if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.parser.BytesParser().parsebytes(archive.read(name))


def committed_files(directory: Path) -> set[str]:
    """Return the paths below `directory`, relative to it, less what Python leaves behind."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_one_package(members: set[str]) -> None:
    version = tvm_mnas.__version__
    assert {name.split("/")[0] for name in members} == {
        "tvm_mnas",
        f"tvm_mnas-{version}.dist-info",
    }


@pytest.mark.parametrize("kind", ["search_space", "rpc", "tuning_logs"])
def test_the_wheel_holds_the_data_that_ships(members: set[str], kind: str) -> None:
    prefix = f"tvm_mnas/_data/{kind}/"
    packaged = {name.removeprefix(prefix) for name in members if name.startswith(prefix)}
    assert packaged
    assert packaged == committed_files(ROOT / kind)


def test_the_wheel_holds_the_embedded_images_the_types_and_the_licences(members: set[str]) -> None:
    embedded = "tvm_mnas/training/embedded"
    licences = f"tvm_mnas-{tvm_mnas.__version__}.dist-info/licenses"
    assert members >= {
        "tvm_mnas/py.typed",
        f"{embedded}/fashion_mnist.png",
        f"{embedded}/fashion_mnist.json",
        f"{embedded}/LICENSE.fashion-mnist",
        f"{licences}/LICENSE",
        f"{licences}/NOTICE",
        f"{licences}/{embedded}/LICENSE.fashion-mnist",
    }


def test_the_wheel_names_its_version_licence_and_command(
    wheel: Path, members: set[str], metadata: email.message.Message
) -> None:
    assert metadata["Name"] == "tvm-mnas"
    assert metadata["Version"] == tvm_mnas.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    (name,) = (name for name in members if name.endswith(".dist-info/entry_points.txt"))
    scripts = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        scripts.read_string(archive.read(name).decode())
    assert dict(scripts["console_scripts"]) == {"tvm-mnas": "tvm_mnas.cli:main"}


def test_an_installed_wheel_finds_its_data_without_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "from tvm_mnas.resources import profiles_directory, resource_directory\n"
        "from tvm_mnas.space.files import load_space\n"
        "print(resource_directory('search_space'), profiles_directory(), load_space('mnasnet').name, sep='\\n')"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    data = tmp_path / "site" / "tvm_mnas" / "_data"
    assert printed == [str(data / "search_space"), str(data / "rpc" / "profiles"), "mnasnet"]


def imported_packages(sources: Iterable[Path]) -> dict[str, str]:
    """Return the top-level packages that `sources` import, each with one place where."""
    found: dict[str, str] = {}
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [node.module]
            else:
                continue
            place = f"{source.relative_to(ROOT)}:{node.lineno}"
            found.update((name.split(".")[0], place) for name in names)
    return found


def requirements(lines: Iterable[str]) -> dict[str, Requirement]:
    """Return the requirements by canonical name."""
    return {canonicalize_name(wanted.name): wanted for wanted in map(Requirement, lines)}


def test_every_import_is_a_declared_dependency() -> None:
    """What only comes along with another package may be gone after its next release."""
    declared = {
        IMPORT_NAMES.get(name, name.replace("-", "_"))
        for name in requirements(PYPROJECT["project"]["dependencies"])
    }
    modules = set((ROOT / "tvm_mnas").rglob("*.py"))
    known = declared | set(sys.stdlib_module_names) | {"tvm_mnas"}
    # What extras bring, each for some modules alone.
    executors = ROOT / "tvm_mnas" / "evaluation" / "executors"
    detection = ROOT / "tvm_mnas" / "training" / "detection"
    brought = {
        "detection": {detection / "precision.py", detection / "yolo.py"},
        "hub": {ROOT / "tvm_mnas" / "training" / "data" / "hub.py"},
        "ray": {executors / "ray.py", executors / "ray_cluster.py"},
    }
    for name, theirs in brought.items():
        extra = {
            IMPORT_NAMES.get(one, one)
            for one in requirements(PYPROJECT["project"]["optional-dependencies"][name])
        }
        assert set(imported_packages(theirs)) - known == extra
    imported = imported_packages(modules - set().union(*brought.values()))
    assert {name: place for name, place in imported.items() if name not in known} == {}


def test_every_dependency_is_imported() -> None:
    imported = imported_packages((ROOT / "tvm_mnas").rglob("*.py"))
    wanted = set(requirements(PYPROJECT["project"]["dependencies"]))
    assert set(IMPORTED_BY_OTHERS) - wanted == set()
    unused = {
        name
        for name in wanted - set(IMPORTED_BY_OTHERS)
        if IMPORT_NAMES.get(name, name.replace("-", "_")) not in imported
    }
    assert unused == set()


MOST_MODULES = 12
MOST_LINES = 400


def package_modules() -> set[str]:
    """Return the paths of every module below tvm_mnas/ but `__init__.py` and `__main__.py`."""
    package = ROOT / "tvm_mnas"
    return {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if not path.name.startswith("__") and "_data" not in path.parts
    }


def drawn_modules(picture: str) -> set[str]:
    """Return the paths that the picture in CONTRIBUTING.md names: a folder stands alone at the left of its modules."""
    found: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in picture.splitlines():
        if not line.startswith("  "):
            continue
        indent = len(line) - len(line.lstrip())
        if head := re.match(r"\s*(\w+)/(\s|$)", line):
            while folders and folders[-1][0] >= indent:
                folders.pop()
            folders.append((indent, head[1]))
        elif line.lstrip().startswith(("cli.py", "errors.py")):
            folders = []
        while folders and not head and folders[-1][0] >= indent:
            folders.pop()
        prefix = "".join(f"{name}/" for _, name in folders)
        # What stands in parentheses explains; paths elsewhere, such as rpc/server/server.c, are no modules.
        found |= {prefix + name for name in re.findall(r"(?<![/\w])\w+\.py\b", line)}
    return found


def test_the_picture_of_the_house_names_every_module() -> None:
    """CONTRIBUTING.md: the picture is true or it is a bug."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, _, section = text.partition("## The house")
    picture = section.split("```")[1].partition("tvm_mnas/\n")[2].partition("\nrpc/")[0]
    drawn = drawn_modules(picture)
    modules = package_modules()
    assert modules - drawn == set(), "missing from the picture"
    assert drawn - modules == set(), "in the picture, but gone"


def test_no_module_is_long_and_no_folder_crowded() -> None:
    package = ROOT / "tvm_mnas"
    folders = Counter(str(Path(module).parent) for module in package_modules())
    # The zoo is a hub of siblings.
    crowded = {name: n for name, n in folders.items() if n > MOST_MODULES and name != "models/zoo"}
    assert crowded == {}
    lines = {
        name: len((package / name).read_text(encoding="utf-8").splitlines())
        for name in package_modules()
    }
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def test_no_imports_go_in_a_circle_type_checking_included() -> None:
    """import-linter keeps the rooms apart; this holds for the modules within a room too."""
    graph = grimp.build_graph("tvm_mnas", include_external_packages=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # A package's docstring-only `__init__` is imported by everything in it and imports nothing.
    state: dict[str, int] = {}
    circles: list[list[str]] = []

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for imported in sorted(imports[module]):
            if state.get(imported) == 1:
                circles.append([*path[path.index(imported) :], imported])
            elif imported not in state:
                visit(imported, [*path, imported])
        state[module] = 2

    for module in sorted(imports):
        if module not in state:
            visit(module, [module])
    assert circles == []


def test_the_constraints_pin_every_dependency_within_its_bounds() -> None:
    text = re.sub(r"#.*", "", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    pins = requirements(line for line in text.splitlines() if line.strip())
    project = PYPROJECT["project"]
    wanted = requirements(
        [
            *project["dependencies"],
            *project["optional-dependencies"]["dev"],
            *project["optional-dependencies"]["bench"],
            *project["optional-dependencies"]["docs"],
        ],
    )
    assert set(wanted) - set(pins) == set()
    for name, requirement in wanted.items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==", f"{name} is not pinned"
        assert requirement.specifier.contains(pin.version), f"{pins[name]} is not in {requirement}"


@pytest.mark.parametrize(
    ("platform", "machine", "wanted"),
    [
        ("linux", "x86_64", "xgboost-cpu"),
        ("linux", "aarch64", "xgboost-cpu"),
        ("linux", "riscv64", "xgboost"),
        ("darwin", "arm64", "xgboost"),
    ],
)
def test_one_xgboost_is_installed_and_without_nccl_where_there_are_wheels(
    platform: str, machine: str, wanted: str
) -> None:
    """Two distributions of one module would overwrite each other's files."""
    environment = {"sys_platform": platform, "platform_machine": machine}
    chosen = [
        name
        for name, requirement in requirements(PYPROJECT["project"]["dependencies"]).items()
        if name.startswith("xgboost")
        and (requirement.marker is None or requirement.marker.evaluate(environment))
    ]
    assert chosen == [wanted]


def test_both_xgboosts_are_pinned_alike() -> None:
    """The cost model's predictions decide which schedules a search records."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    versions = re.findall(r"^(xgboost(?:-cpu)?)==(\S+)$", text, re.MULTILINE)
    assert [name for name, _ in versions] == ["xgboost-cpu", "xgboost"]
    assert len({version for _, version in versions}) == 1


STARTS = [["-c", "import tvm_mnas"], ["-m", "tvm_mnas", "--help"]]


@pytest.mark.parametrize("arguments", STARTS, ids=["import", "help"])
def test_a_start_imports_nothing_heavy(arguments: list[str]) -> None:
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in traced.splitlines()}
    assert "tvm_mnas" in imported
    assert imported & HEAVY == set()


@pytest.mark.timed
@pytest.mark.parametrize(
    ("arguments", "most"), [(STARTS[0], 0.1), (STARTS[1], 2.2)], ids=["import", "help"]
)
def test_a_start_is_quick(arguments: list[str], most: float) -> None:
    """Processor time beyond that of a bare interpreter, in yardsticks: a start waits for nothing."""
    programs = {"bare": ["-c", "pass"], "yardstick": ["-c", YARDSTICK], "ours": arguments}
    best_s = dict.fromkeys(programs, math.inf)
    for _ in range(5):
        # In turn, so that a slow moment meets all.
        for name, program in programs.items():
            best_s[name] = min(best_s[name], processor_time_s([sys.executable, *program]))
    yardstick_s = best_s["yardstick"] - best_s["bare"]
    assert best_s["ours"] - best_s["bare"] < most * yardstick_s, best_s


def processor_time_s(command: list[str]) -> float:
    """Return the processor time that `command` took, start of the interpreter included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_no_deadline_is_read_from_a_clock_that_jumps() -> None:
    """The wall clock is set by people and networks: it labels what was measured, and decides nothing."""
    package = ROOT / "tvm_mnas"
    readers = {
        name
        for name in package_modules()
        if re.search(r"\btime\.time\(|\butcnow\(", (package / name).read_text(encoding="utf-8"))
    }
    assert readers == set()
