"""Figure 6 with networks of one's own: both sides anew, trained and timed alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.report.runs import make_accuracy, make_latency, make_success, sample_architectures
from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import BuildError, ConfigError, MeasurementError
from tvm_mnas.paper.scaled_winner import (
    MULTIPLIERS,
    JudgedNetwork,
    scale_or_search,
    scaled_winner_figure,
)
from tvm_mnas.report.drawing import render_png
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.network_space import ChosenNetwork

WINNER, FAST, SLOW, BEATEN = sample_architectures(4)


class Pipeline:
    """Trains and times by formulas; what is named in `broken` fails to compile, in `lost` to be timed."""

    def __init__(self, directory: Path, *, broken: str = "", lost: str = "") -> None:
        self.directory, self.broken, self.lost = directory, broken, lost
        self.trained: list[Architecture] = []
        self.toolchain = SimpleNamespace(measure_in_turn=self.measure_in_turn)

    def train_again(self, architectures: Sequence[Architecture]) -> Iterator[tuple[int, Any]]:
        self.trained = list(architectures)
        for index in reversed(range(len(architectures))):
            yield index, make_accuracy(0.6 + 0.01 * index)

    def compile(self, architecture: Architecture) -> SimpleNamespace:
        if architecture.id == self.broken:
            raise BuildError("no")
        path = self.directory / f"{architecture.id}.so"
        path.touch()
        return SimpleNamespace(path=path)

    def measure_in_turn(
        self, artifacts: Sequence[Any], *, rounds: int, on_progress: Any
    ) -> list[tuple[Latency, ...] | MeasurementError]:
        return [
            MeasurementError("no time")
            if artifact.path.stem == self.lost
            else tuple(make_latency(0.01 * (turn + 1)) for turn in range(rounds))
            for artifact in artifacts
        ]


def session(
    records: Sequence[TrialRecord], pipeline: Pipeline | None = None, **settings: Any
) -> Any:
    @contextmanager
    def opened(_: Any) -> Iterator[Pipeline | None]:
        yield pipeline

    directory = SimpleNamespace(
        config=SearchConfig(**settings), path="run", trials=lambda study: tuple(records)
    )
    best = max(records, key=lambda record: record.reward or 0.0)
    return SimpleNamespace(
        directory=directory, study=None, pick=lambda trial: best, pipeline=opened
    )


class Notes:
    """Keeps what an observer is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, name: str, done: int, total: int) -> None:
        """Nobody looks."""

    def note(self, text: str) -> None:
        self.notes.append(text)


OLD = [make_success(0, WINNER, 0.9, make_latency(0.06))]
NEW = [
    make_success(0, FAST, 0.7, make_latency(0.02)),
    make_success(1, SLOW, 0.8, make_latency(0.03)),
    make_success(2, BEATEN, 0.6, make_latency(0.05)),
]


def test_the_winner_is_scaled_and_the_front_trained_anew(tmp_path: Path) -> None:
    pipeline, notes = Pipeline(tmp_path), Notes()
    networks = scale_or_search(session(OLD, pipeline), session(NEW), observer=notes)
    assert [one.multiplier for one in networks[:4]] == list(MULTIPLIERS)
    assert [one.trial for one in networks[4:]] == [0, 1], "trial 2 is not on the front"
    assert networks[3].notation == WINNER.notation
    assert networks[0].notation != WINNER.notation
    assert [one.label for one in networks[3:5]] == ["scaled by 1", "trial 0"]
    # Those of the second training, and the median of the rounds.
    assert [one.accuracy.top1 for one in networks] == pytest.approx(
        [0.6 + 0.01 * k for k in range(6)]
    )
    assert {one.latency.latency_ms for one in networks} == {0.02}
    assert notes.notes == []
    assert list(tmp_path.iterdir()) == [], "libraries are removed"
    picture = render_png(scaled_winner_figure(networks, target_ms=0.02))
    assert picture.startswith(b"\x89PNG")
    assert networks[0].to_json()["latency"]["latency_ms"] == 0.02


def test_what_fails_is_left_out_and_said(tmp_path: Path) -> None:
    pipeline, notes = Pipeline(tmp_path, broken=FAST.id, lost=WINNER.id), Notes()
    networks = scale_or_search(session(OLD, pipeline), session(NEW), observer=notes)
    assert [one.label for one in networks] == [
        *("scaled by 0.35", "scaled by 0.5", "scaled by 0.75", "trial 1")
    ]
    assert "could not be compiled: no" in notes.notes[0]
    assert "could not be timed: no time" in notes.notes[1]


def test_runs_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    for setting, value in (("data", "idx:/x"), ("recipe", "finetune"), ("train_steps", 7)):
        with pytest.raises(ConfigError, match=f"{setting} of the two runs is"):
            scale_or_search(
                session(OLD, Pipeline(tmp_path)), session(NEW, **{setting: value}), observer=Notes()
            )


def test_a_winner_of_one_s_own_builder_cannot_be_scaled(tmp_path: Path) -> None:
    chosen = ChosenNetwork("m:f", (("width", 8),), 3, 32, 10)
    record = SimpleNamespace(evaluation=SimpleNamespace(architecture=chosen), reward=1.0)
    with pytest.raises(ConfigError, match="scales an architecture of blocks"):
        scale_or_search(
            session([cast(TrialRecord, record)], Pipeline(tmp_path)), session(NEW), observer=Notes()
        )


def test_a_network_is_of_one_side() -> None:
    for multiplier, trial in ((None, None), (0.5, 1)):
        with pytest.raises(ConfigError, match="one of both"):
            JudgedNetwork(
                notation="n",
                multiplier=multiplier,
                trial=trial,
                accuracy=make_accuracy(0.5),
                latency=make_latency(0.1),
            )
