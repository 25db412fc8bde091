"""The command line as its user meets it: real processes, exit codes, one clear line for each mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from tests.report.runs import make_run
from tvm_mnas import __version__, cli
from tvm_mnas.config import SearchConfig
from tvm_mnas.resources import resource_directory
from tvm_mnas.search.run import REPEATS_ATTRIBUTE, RunDirectory
from tvm_mnas.search.study.compact import EVALUATION_ATTRIBUTE
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import load_space, space_names
from tvm_mnas.workflows.model_ref import resolve_architecture

ROOT = Path(__file__).resolve().parents[1]

BOARD = """
key = "board"
tracker = "127.0.0.1:1"
[target]
kind = "llvm"
num-cores = 1
"""
"""A device behind a tracker that is not there: nothing listens at port 1."""


MANIFEST = json.dumps(
    {
        "format": 1,
        "target": '{"kind": "llvm", "num-cores": %d}',
        "tvm": version("apache-tvm"),
    }
)
"""A store's, for so many cores."""


def tvm_mnas(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_mnas", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


InThisProcess = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def in_this_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[InThisProcess]:
    """What `tvm_mnas` does, without a process of its own: most of the time of a mistake is that of imports."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        # As `python -m` does.
        monkeypatch.syspath_prepend(str(cwd))
        monkeypatch.setattr(sys, "argv", ["tvm-mnas", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def done(*arguments: str, cwd: Path) -> str:
    """Return the output of a command that ends well."""
    finished = tvm_mnas(*arguments, cwd=cwd)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def make_searched_run(path: Path) -> RunDirectory:
    """A run of ten finished trials: trial 4 failed, trial 6 met an earlier one again."""
    config = SearchConfig(
        trials=10, algorithm="random", space="mnasnet", target_latency_ms=0.06, jobs=1
    )
    run = RunDirectory.create(path, config)
    with run.lock():
        study = run.study()
        for record in make_run(10):
            trial = study.ask()
            trial.set_user_attr(EVALUATION_ATTRIBUTE, record.evaluation.to_json())
            if record.repeats is not None:
                trial.set_user_attr(REPEATS_ATTRIBUTE, record.repeats)
            if record.evaluation.objectives is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, record.evaluation.objectives)
    return run


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a run; tests that might change it copy it."""
    return make_searched_run(tmp_path_factory.mktemp("searched") / "run").path


@pytest.fixture
def place(tmp_path: Path, searched: Path) -> Path:
    """A directory with everything that a mistake can be made with."""
    quickstart = resource_directory("search_space").joinpath("quickstart.toml").read_text()
    files = {
        "bad_key.toml": quickstart.replace("[stem]", "[stems]"),
        "bad_value.toml": quickstart.replace("kernel_size = [3, 5]", "kernel_size = [3, 4]"),
        "not_toml.toml": "name = = 3",
        "board.toml": BOARD,
        "bad_board.toml": BOARD.replace('kind = "llvm"', 'sort = "llvm"'),
        "settings.toml": "trails = 3\n",
        "a_file": "",
        "garbage_config/config.toml": "trials = = 3\n",
        "garbage_journal/config.toml": SearchConfig().to_toml(),
        "garbage_journal/study.journal": "garbage\n",
        "empty/nothing": "",
        "pictures/train/cat/1.jpg": "",
        "stores/a-1/manifest.json": MANIFEST % 1,
        "stores/b-1/manifest.json": MANIFEST % 2,
        "stores/c-1/manifest.json": MANIFEST % 1,
        "stores/c-1/history.jsonl": "garbage\n{}\n",
    }
    for source in searched.iterdir():
        if source.is_file():
            files[f"run/{source.name}"] = source.read_text()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def contents(directory: Path) -> dict[str, bytes | None]:
    """Everything below `directory`, less the locks, which hold nothing."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if path.name not in ("run.lock", ".lock")
    }


@dataclass(frozen=True)
class Mistake:
    """A command, its exit code, and what its one line must name: what is wrong and what to type next."""

    command: str
    code: int
    parts: tuple[str, ...]


MISTAKES = {
    "space file with a wrong key": Mistake(
        "search --space bad_key.toml --target-latency 1ms", 2, ("bad_key.toml", "stems", "stem,")
    ),
    "space file with a wrong value": Mistake(
        "search --space bad_value.toml --target-latency 1ms",
        2,
        ("bad_value.toml", "kernel size", "1, 3, 5 or 7", "not 4"),
    ),
    "space file that is no TOML": Mistake(
        "search --space not_toml.toml --target-latency 1ms", 2, ("not_toml.toml", "TOML")
    ),
    "space file that is absent": Mistake(
        "search --space absent.toml --target-latency 1ms", 2, ("absent.toml",)
    ),
    "unknown space": Mistake(
        "search --space imagenet --target-latency 1ms",
        2,
        ("'imagenet'", "mcu-96, mnasnet, mnasnet-se", "`tvm-mnas space list`"),
    ),
    "another space without a target": Mistake(
        "search --space mnasnet", 2, ("'mnasnet'", "--target-latency 80ms")
    ),
    "unknown device": Mistake(
        "search --device pixel9", 2, ("'pixel9'", "there are: armv7-a7, ", ", local, ", "TOML file")
    ),
    "devices watched without a tracker": Mistake(
        "device list --watch", 2, ("--watch", "--tracker")
    ),
    "device to add without a way to it": Mistake(
        "device add mine", 2, ("--ssh HOST", "--adb SERIAL", "one of them")
    ),
    "device to add whose profile is there": Mistake(
        "device add bad_board --ssh nowhere", 2, ("bad_board.toml", "there already", "-o")
    ),
    "device to push to that is this machine": Mistake(
        "device push local --ssh nowhere", 2, ("local", "this machine")
    ),
    "device reached in two ways": Mistake(
        "device push rpi4 --ssh a --adb b", 2, ("--ssh HOST", "--adb SERIAL", "one of them")
    ),
    "device with a port of the system": Mistake(
        "device push rpi4 --ssh a --port 80", 2, ("--port", "1024..65534", "80")
    ),
    "host that is an option": Mistake(
        "device push rpi4 --ssh=-oProxyCommand=x", 2, ("--ssh", "leading dash")
    ),
    "device profile with a wrong target": Mistake(
        "search --device bad_board.toml", 2, ("bad_board.toml", "target", "kind")
    ),
    "target latency without its unit": Mistake(
        "search --target-latency 80", 2, ("'80'", "unit", "80ms")
    ),
    "target latency of nothing": Mistake("search --target-latency 0ms", 2, ("'0ms'", "80ms")),
    "data directory that is missing": Mistake(
        "search --data imagefolder:/nonexistent", 2, ("/nonexistent", "`--data embedded`")
    ),
    "data directory without classes": Mistake(
        "search --data imagefolder:pictures", 2, ("pictures/train", "one directory per class")
    ),
    "data check of a folder that is missing": Mistake(
        "data check imagefolder:/nonexistent", 2, ("/nonexistent", "`--data embedded`")
    ),
    "data cache of images in memory": Mistake(
        "data cache embedded -o copy", 2, ("embedded needs no cache",)
    ),
    "data cache of nothing to see": Mistake(
        "data cache imagefolder:pictures -o copy --size 4", 2, ("8 pixels", "--size 160")
    ),
    "data that is no complete cache": Mistake(
        "search --data cache:pictures", 2, ("pictures is no complete cache", "data cache")
    ),
    "damaged images below none": Mistake(
        "search --max-bad-images -1", 2, ("max_bad_images must be 0 or more", "-1")
    ),
    "unknown data": Mistake(
        "search --data mnist", 2, ("'mnist'", "imagefolder:PATH", "`--data embedded`")
    ),
    "unknown recipe": Mistake(
        "search --recipe imagenet-ful", 2, ("'imagenet-ful'", "did you mean imagenet-full?")
    ),
    "unknown value of a recipe": Mistake(
        "search --set ema_deca=0.9", 2, ("ema_deca", "did you mean ema_decay?")
    ),
    "value of a recipe without a value": Mistake(
        "search --set ema_decay", 2, ("KEY=VALUE", "'ema_decay'")
    ),
    "value of a recipe out of range": Mistake(
        "search --set ema_decay=1.5", 2, ("ema_decay must be in 0..1", "1.5")
    ),
    "steps and epochs": Mistake(
        "search --train-steps 5 --train-epochs 2", 2, ("not both 5 steps and 2 epochs",)
    ),
    "accelerator that is none": Mistake(
        "search --train-device gpu", 2, ("auto, cpu, cuda or cuda:N", "'gpu'")
    ),
    "storage that is no URL": Mistake(
        "search --storage studies", 2, ("'studies' is none", "postgresql://")
    ),
    "storage with a password": Mistake(
        "search --storage postgresql://me:secret@db/a", 2, ("leave it out of --storage",)
    ),
    "storage that is not there": Mistake(
        "search --storage postgresql://me@127.0.0.1:1/a",
        1,
        ("cannot reach the database", "is it up?"),
    ),
    "plan of a run": Mistake("search --plan --run runs/a", 2, ("has not begun", "--run")),
    "plan with a trainer of one's own": Mistake(
        "search --plan --trainer json:loads", 2, ("not 'json:loads'", "leave out --plan")
    ),
    "training without data": Mistake("train mnasnet", 2, ("needs a model and its data",)),
    "training without a directory": Mistake(
        "train mnasnet --data embedded", 2, ("none is named", "-o DIR")
    ),
    "training of what cannot be built anew": Mistake(
        "train darts-imagenet --data embedded -o out", 2, ("darts-imagenet", "notation")
    ),
    "training on an accelerator that is not there": Mistake(
        "train mnasnet --data embedded -o out --train-device cuda:7", 2, ("cuda:7", "sees")
    ),
    "training on data of another kind": Mistake(
        "train i32_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:head8:n3 --data embedded -o out",
        2,
        ("embedded has 10 classes", "tells only 3"),
    ),
    "resumed training with other settings": Mistake(
        "train --resume runs --set steps=3", 2, ("keeps its settings", "--resume")
    ),
    "grid that is resumed": Mistake(
        "train --resume training --grid", 2, ("the same command is typed again",)
    ),
    "resumed training that is none": Mistake(
        "train --resume pictures", 1, ("pictures is no training", "tvm-mnas train")
    ),
    "unknown algorithm": Mistake(
        "search --algorithm magic", 2, ("'magic'", "ppo, ppo-paper, evolution, random", "--help")
    ),
    "negative trials": Mistake("search --trials -3", 2, ("trials", "1 or more", "-3", "--help")),
    "trials that are no number": Mistake("search --trials many", 2, ("--trials", "--help")),
    "reward for being slow": Mistake("search --alpha 0.07", 2, ("alpha", "at most 0", "0.07")),
    "two kinds of exponents": Mistake(
        "search --hard --alpha -0.1", 2, ("--hard", "leave out --alpha")
    ),
    "unknown setting in a file": Mistake(
        "search --config settings.toml", 2, ("settings.toml", "trails", "trials")
    ),
    "settings file that is absent": Mistake(
        "search --config absent.toml", 2, ("absent.toml", "No such file")
    ),
    "run that exists": Mistake(
        "search --run run", 1, ("run", "`tvm-mnas search --resume run` goes on with it")
    ),
    "directory that exists": Mistake("search --run empty", 1, ("empty", "--run")),
    "run below a file": Mistake("search --run a_file/run", 1, ("a_file/run", "--run")),
    "corrupt configuration": Mistake(
        "search --resume garbage_config", 2, ("garbage_config/config.toml", "line 1", "restore")
    ),
    "corrupt study": Mistake(
        "search --resume garbage_journal",
        1,
        ("garbage_journal/study.journal", "restore it", "`tvm-mnas search`"),
    ),
    "corrupt study to report": Mistake(
        "report garbage_journal", 1, ("garbage_journal/study.journal", "restore it")
    ),
    "no run to resume": Mistake(
        "search --resume empty", 1, ("empty", "config.toml", "`tvm-mnas search`")
    ),
    "no run to report": Mistake("report absent", 1, ("absent", "config.toml", "`ls ")),
    "no run to export": Mistake("export empty", 1, ("empty", "config.toml", "`ls ")),
    "resumed with other settings": Mistake(
        "search --resume run --seed 3", 2, ("--resume", "--trials", "start a new run")
    ),
    "what names no Ray cluster": Mistake(
        "search --executor ray:gpus=1.5", 2, ("part of one or a whole number", "1.5")
    ),
    "an executor that is none": Mistake(
        "search --executor slurm", 2, ("local, inline, ray", "slurm")
    ),
    "resumed with fewer trials": Mistake("search --resume run --trials 3", 2, ("10", "3")),
    "tracker that is not there": Mistake(
        "device list --tracker 127.0.0.1:1", 1, ("127.0.0.1:1", "start one", "rpc_tracker")
    ),
    "tracker without a port": Mistake(
        "device list --tracker localhost", 2, ("host:port", "localhost")
    ),
    "device whose tracker is not there": Mistake(
        "search --device board.toml", 1, ("127.0.0.1:1", "start one", "rpc_tracker")
    ),
    "records in a file": Mistake("search --records a_file", 1, ("a_file", "--records")),
    "records of another target to merge": Mistake(
        "records merge stores/a-1 stores/b-1",
        1,
        ("stores/a-1", "target", "`tvm-mnas records list`"),
    ),
    "records to merge into themselves": Mistake(
        "records merge stores/a-1 stores/a-1", 1, ("stores/a-1", "both", "`tvm-mnas records list`")
    ),
    "records to merge into a directory of stores": Mistake(
        "records merge stores/a-1 stores", 1, ("stores", "stores/a-1")
    ),
    "records to merge from nowhere": Mistake(
        "records merge absent stores/a-1", 1, ("absent", "manifest.json", "`tvm-mnas records list`")
    ),
    "records to merge into nothing named": Mistake(
        "records merge stores/a-1", 2, ("FROM", "--help")
    ),
    "records to list that are absent": Mistake(
        "records list absent", 1, ("absent", "`tvm-mnas records list`")
    ),
    "records to check in an empty directory": Mistake(
        "records check empty", 1, ("empty", "manifest.json", "`tvm-mnas search --records empty`")
    ),
    "records to prune to nothing": Mistake(
        "records prune stores/a-1 --keep 0", 2, ("--keep", "--help")
    ),
    "records to prune to an unknown number": Mistake(
        "records prune stores/a-1", 2, ("--keep", "--help")
    ),
    "records to prune that are damaged": Mistake(
        "records prune stores/c-1 --keep 1",
        1,
        ("stores/c-1", "line 1", "`tvm-mnas records check --repair stores/c-1`"),
    ),
    "unknown command for records": Mistake("records paint", 2, ("'paint'", "--help")),
    "trial that does not exist": Mistake(
        "export run --trial 99", 2, ("99", "10 finished trials", "`tvm-mnas report run`")
    ),
    "trial that failed": Mistake(
        "export run --trial 4", 2, ("trial 4 failed", "`tvm-mnas report run`")
    ),
    "unknown flag": Mistake("search --colour red", 2, ("--colour", "`tvm-mnas --help`")),
    "unknown command": Mistake("paint", 2, ("'paint'", "`tvm-mnas --help`")),
    "argument that is missing": Mistake("report", 2, ("run", "--help")),
    **{
        f"untuned kernels allowed: {text}": Mistake(
            f"{command} --allow-untuned {text}", 2, (repr(text), "--allow-untuned 5%")
        )
        for command, text in (
            ("search", "5"),
            ("search", "many"),
            ("search", "100%"),
            ("search", "nan"),
            ("bench i16", "150%"),
            ("bench i16", "0.05ms"),
            ("bench i16", "%"),
        )
    },
    "resumed with another limit": Mistake(
        "search --resume run --allow-untuned 5%", 2, ("--resume", "start a new run")
    ),
    "model that is none": Mistake(
        "bench nonsense", 2, ("'nonsense'", "`tvm-mnas space show quickstart --sample 1`")
    ),
    "scaling out of range": Mistake("bench mnasnet-b1@0.2", 2, ("0.35..1.4", "not 0.2")),
    "space derive a trial that does not exist": Mistake(
        "space derive run:99", 2, ("no finished trial 99", "`tvm-mnas report run`")
    ),
    "negative sample": Mistake("space show mnasnet --sample -1", 2, ("--sample", "--help")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(
    name: str, place: Path, in_this_process: InThisProcess
) -> None:
    mistake = MISTAKES[name]
    before = contents(place)
    finished = in_this_process(*mistake.command.split(), cwd=place)
    assert finished.stderr.startswith("tvm-mnas: error: "), finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert finished.returncode == mistake.code
    assert "Traceback" not in finished.stderr + finished.stdout
    assert finished.stdout == ""
    for part in mistake.parts:
        assert part in finished.stderr
    assert contents(place) == before


HOLD = """
import sys
from pathlib import Path
from tvm_mnas.search.run import RunDirectory
with RunDirectory.open(Path("run")).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_at_the_run(place: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", ["search --resume run --trials 99", "export run --trial 0"])
def test_a_run_that_another_process_works_on_is_left_alone(command: str, place: Path) -> None:
    before = contents(place)
    with another_process_at_the_run(place):
        finished = tvm_mnas(*command.split(), cwd=place)
    assert finished.returncode == 1
    assert finished.stderr.startswith("tvm-mnas: error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert "another one has run" in finished.stderr
    assert contents(place) == before


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    finished = tvm_mnas(cwd=tmp_path)
    assert finished.returncode == 2
    assert "Usage" in finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_help_names_every_command(tmp_path: Path) -> None:
    text = done("--help", cwd=tmp_path)
    commands = (
        "search",
        "report",
        "export",
        "space",
        "zoo",
        "tune",
        "bench",
        "device",
        "records",
        "paper",
    )
    assert all(command in text for command in commands)


def test_the_help_of_a_search_names_every_flag_of_the_readme(tmp_path: Path) -> None:
    text = done("search", "--help", cwd=tmp_path)
    for flag in ("--space", "--device", "--data", "--target-latency", "--resume", "--json"):
        assert flag in text


def test_the_version_is_a_line(tmp_path: Path) -> None:
    assert done("--version", cwd=tmp_path) == f"tvm-mnas {__version__}\n"


def test_spaces_are_listed(tmp_path: Path) -> None:
    rows = json.loads(done("space", "list", "--json", cwd=tmp_path))
    assert [row["name"] for row in rows] == list(space_names())
    assert {row["name"]: row["size"] for row in rows} == {
        name: load_space(name).size for name in space_names()
    }
    table = done("space", "list", cwd=tmp_path)
    assert all(name in table for name in space_names())


def test_a_space_is_described_by_its_decisions(tmp_path: Path) -> None:
    rows = json.loads(done("space", "show", "quickstart", "--json", cwd=tmp_path))
    decisions = load_space("quickstart").decisions
    assert rows == [
        {"decision": decision.name, "choices": list(decision.choices)} for decision in decisions
    ]
    table = done("space", "show", "quickstart", cwd=tmp_path)
    assert all(decision.name in table for decision in decisions)
    assert f"{load_space('quickstart').size:,}" in table


def test_a_space_is_derived_from_a_trial_and_sampled_from_its_file(place: Path) -> None:
    assert done("space", "derive", "run:1", "-o", "near.toml", cwd=place) == "near.toml\n"
    space = load_space(str(place / "near.toml"))
    architecture = resolve_architecture(f"{place / 'run'}:1")
    assert space.decode(space.encode(architecture)) == architecture
    scaled = resolve_architecture(f"{place / 'run'}:1@0.5,96")
    assert (scaled.depth_multiplier, scaled.input_size) == (0.5, 96)
    assert done("space", "show", "near.toml", "--sample", "3", cwd=place).count("\n") == 3


def test_a_sample_is_notations_of_the_space_and_follows_from_its_seed(tmp_path: Path) -> None:
    arguments = ("space", "show", "mnasnet", "--sample", "3", "--seed", "5")
    rows = json.loads(done(*arguments, "--json", cwd=tmp_path))
    space = load_space("mnasnet")
    for row in rows:
        architecture = Architecture.parse(row["architecture"])
        assert architecture.id == row["id"]
        assert space.decode(space.encode(architecture)) == architecture
    lines = done(*arguments, cwd=tmp_path).splitlines()
    assert [line.split()[-1] for line in lines] == [row["architecture"] for row in rows]
    assert len({row["id"] for row in rows}) == 3


def test_devices_are_listed(tmp_path: Path) -> None:
    rows = json.loads(done("device", "list", "--json", cwd=tmp_path))
    assert "local" in [row["key"] for row in rows]
    assert "local" in done("device", "list", cwd=tmp_path)


def test_a_report_is_written_and_printed(place: Path) -> None:
    before = contents(place / "run")
    printed = json.loads(done("report", "run", "--json", cwd=place))
    run = RunDirectory.open(place / "run")
    records = {record.number: record for record in run.finished_trials()}
    assert printed["run"] == "run"
    assert printed["pareto"]
    for row in printed["pareto"]:
        assert records[row["trial"]].reward == pytest.approx(row["reward"])
    files = [place / file for file in printed["files"]]
    assert files
    for file in files:
        assert file.is_relative_to(place / "run" / "report")
        assert file.stat().st_size > 0
    assert {file.suffix for file in files} >= {".html", ".png"}
    after = contents(place / "run")
    assert {name: after[name] for name in before} == before, "a report changed the run"


def test_a_pareto_set_says_how_much_of_each_time_is_in_untuned_kernels(place: Path) -> None:
    text = done("report", "run", cwd=place)
    assert "untuned: the part of the run time in kernels without a tuning record" in text
    (heading,) = (line for line in text.splitlines() if line.startswith("trial "))
    assert heading.split()[3:5] == ["latency", "untuned"]
    rows = [line for line in text.splitlines() if " ms " in line]
    assert rows, "in eighty columns a latency keeps its unit"
    # Three percent of each, as tests/report/runs.py makes them.
    assert all(" 3.0 % " in row for row in rows)


def test_the_untuned_share_of_a_search_is_kept_for_its_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[RunDirectory] = []
    monkeypatch.setattr(
        "tvm_mnas.commands.runs.search._search", lambda run, changes, as_json: started.append(run)
    )
    path = str(tmp_path / "run")
    for arguments in (["--run", path, "--allow-untuned", "5%"], ["--resume", path]):
        finished = CliRunner().invoke(cli.app, ["search", *arguments])
        assert finished.exit_code == 0, finished.output
    assert [run.config.max_untuned_share for run in started] == [0.05, 0.05]
    CliRunner().invoke(cli.app, ["search", "--run", f"{path}-2"])
    assert started[2].config.max_untuned_share == 0.0


def test_a_resumed_search_may_train_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(
        "tvm_mnas.commands.runs.search._search", lambda run, changes, as_json: asked.append(changes)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def make(request):\n    return None\n")
    for arguments in (["--run", "r"], ["--resume", "r", "--executor", "mine.py:make"]):
        finished = CliRunner().invoke(cli.app, ["search", *arguments])
        assert finished.exit_code == 0, finished.output
    assert asked[1] == {"executor": f"{tmp_path}/mine.py:make"}


def test_output_that_nobody_reads_is_no_failure_of_ours(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tvm_mnas", "space", "show", "mnasnet", "--sample", "2000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1
