"""Records that ship lie below the user's: both are looked up, one is written to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compiler.conftest import Tuned
from tests.compiler.stores import TARGET, add, contents, make_kernel, make_record
from tvm_mnas.compiler.build.artifact import compile_network
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.compiler.records.check import check_store
from tvm_mnas.compiler.records.formats import FAILED_S, StoreManifest
from tvm_mnas.compiler.records.layered import (
    LayeredRecords,
    open_records,
    shipped_directory,
    store_name,
    target_digest,
)
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import RecordsError, TvmMnasError
from tvm_mnas.models.zoo.registry import zoo_entry

ONE, TWO, THREE = make_kernel(1), make_kernel(2), make_kernel(3)
NAME = store_name("board", TARGET)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Return a directory with one store that ships: kernel one in 3 us, kernel two in 5 us."""
    store = RecordStore.open(tmp_path / "shipped" / NAME, target=TARGET)
    add(store, ONE, [make_record(3e-6), make_record(4e-6)], budget=8)
    add(store, TWO, [make_record(5e-6)], budget=8)
    (store.directory / ".lock").unlink()
    return tmp_path / "shipped"


def _open(tmp_path: Path, shipped: Path | None) -> TuningRecords:
    return open_records(tmp_path / "mine", profile_key="board", target=TARGET, shipped=shipped)


def test_what_ships_is_known_and_left_as_it_is(tmp_path: Path, shipped: Path) -> None:
    before = contents(shipped)
    records = _open(tmp_path, shipped)
    assert isinstance(records, LayeredRecords)
    assert len(records) == 2
    assert records.has(ONE.key) and not records.has(THREE.key)
    assert records.best_us(ONE.key) == pytest.approx(3.0)
    assert records.schedules(ONE.key) == 2
    assert records.missing([ONE, TWO, THREE], schedules_per_kernel=8) == [THREE]
    assert records.missing([ONE, TWO, THREE], schedules_per_kernel=9) == [ONE, TWO, THREE]
    assert [json.loads(record)[1] for record in records.records_of(ONE.key)] == [[3e-6], [4e-6]]
    assert contents(shipped) == before
    assert not (shipped / NAME / ".lock").exists()


def test_the_best_record_wins_whichever_layer_has_it(tmp_path: Path, shipped: Path) -> None:
    records = _open(tmp_path, shipped)
    before = contents(shipped)
    add(records, ONE, [make_record(9e-6)])
    add(records, TWO, [make_record(1e-6)])
    add(records, THREE, [make_record(FAILED_S)])
    for known in (records, _open(tmp_path, shipped)):
        best = {kernel.key: known.best_record(kernel.key) for kernel in (ONE, TWO)}
        assert json.loads(best[ONE.key] or "")[1] == [3e-6]
        assert json.loads(best[TWO.key] or "")[1] == [1e-6]
        assert known.best_us(TWO.key) == pytest.approx(1.0)
        assert not known.has(THREE.key)
        assert known.best_record(THREE.key) is None
        assert len(known) == 2
        assert known.schedules(ONE.key) == 3
        assert len(known.records_of(ONE.key)) == 3
    assert contents(shipped) == before


def test_what_is_added_goes_to_the_users_store(tmp_path: Path, shipped: Path) -> None:
    add(_open(tmp_path, shipped), ONE, [make_record(1e-6)])
    alone = _open(tmp_path, None)
    assert isinstance(alone, RecordStore)
    assert alone.directory == tmp_path / "mine" / NAME
    assert alone.best_us(ONE.key) == pytest.approx(1.0)
    assert not alone.has(TWO.key)


def test_a_record_that_both_layers_hold_counts_once(tmp_path: Path, shipped: Path) -> None:
    records = _open(tmp_path, shipped)
    add(records, ONE, [make_record(3e-6), make_record(7e-6)])
    assert records.schedules(ONE.key) == 3
    add(records, ONE, [make_record(4e-6), make_record(8e-6)])
    assert records.schedules(ONE.key) == 4
    assert len(records.records_of(ONE.key)) == 4


def test_a_subset_takes_the_best_of_all_layers(tmp_path: Path, shipped: Path) -> None:
    records = _open(tmp_path, shipped)
    add(records, TWO, [make_record(1e-6)])
    records.subset([ONE, TWO], tmp_path / "subset")
    subset = RecordStore.open(tmp_path / "subset", target=TARGET)
    assert subset.best_us(ONE.key) == pytest.approx(3.0)
    assert subset.best_us(TWO.key) == pytest.approx(1.0)
    assert subset.schedules(ONE.key) == subset.schedules(TWO.key) == 1
    assert subset.budget(ONE.key) == 8


@pytest.mark.parametrize("change", [{"tvm": "0.26.0"}, {"target": "{}"}, {"format": 2}])
def test_what_ships_for_something_else_is_left_out_with_one_note(
    tmp_path: Path,
    shipped: Path,
    change: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = shipped / NAME / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    records = _open(tmp_path, shipped)
    assert isinstance(records, RecordStore)
    assert not records.has(ONE.key)
    assert len(caplog.records) == 1
    assert str(shipped / NAME) in caplog.text


def test_damage_in_what_ships_stops_nothing(
    tmp_path: Path, shipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shipped / NAME / "database_tuning_record.json"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    assert isinstance(_open(tmp_path, shipped), RecordStore)
    assert "tvm-mnas records check" in caplog.text


def test_a_torn_line_in_what_ships_is_not_cut_off(tmp_path: Path, shipped: Path) -> None:
    path = shipped / NAME / "database_tuning_record.json"
    path.write_bytes(path.read_bytes()[:-4])
    before = contents(shipped)
    records = _open(tmp_path, shipped)
    assert records.has(ONE.key) and not records.has(TWO.key)
    assert contents(shipped) == before


def test_damage_in_the_users_own_store_is_an_error(tmp_path: Path, shipped: Path) -> None:
    add(_open(tmp_path, shipped), ONE, [make_record(1e-6)])
    path = tmp_path / "mine" / NAME / "database_tuning_record.json"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(RecordsError, match="line 1"):
        _open(tmp_path, shipped)


def test_no_store_ships_for_this_device(tmp_path: Path, shipped: Path) -> None:
    records = open_records(tmp_path / "mine", profile_key="phone", target=TARGET, shipped=shipped)
    assert isinstance(records, RecordStore)


def test_one_directory_is_one_layer(shipped: Path) -> None:
    records = open_records(shipped, profile_key="board", target=TARGET, shipped=shipped)
    assert isinstance(records, RecordStore)
    assert records.schedules(ONE.key) == 2


def test_a_store_that_is_only_read_takes_nothing(shipped: Path) -> None:
    before = contents(shipped)
    with pytest.raises(RecordsError, match="read only"):
        add(RecordStore.read(shipped / NAME), ONE, [make_record(1e-6)])
    assert contents(shipped) == before


def test_layers_of_two_targets_are_refused(tmp_path: Path) -> None:
    mine = RecordStore.open(tmp_path / "one", target=TARGET)
    other = RecordStore.open(tmp_path / "two", target='{"kind": "llvm"}')
    with pytest.raises(ValueError, match="one target"):
        LayeredRecords(mine, [other])


def test_the_name_of_a_store_stands_for_its_target() -> None:
    assert store_name("board", TARGET) == f"board-{target_digest(TARGET)}"
    assert len(target_digest(TARGET)) == 8
    assert target_digest(TARGET) != target_digest(TARGET + " ")


def test_an_installation_without_records_that_ship_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(kind: str) -> Path:
        raise TvmMnasError(f"this installation lacks {kind}")

    monkeypatch.setattr("tvm_mnas.compiler.records.layered.resource_directory", lacking)
    assert shipped_directory() is None
    monkeypatch.setattr(
        "tvm_mnas.compiler.records.layered.resource_directory", lambda kind: tmp_path
    )
    assert shipped_directory() is None
    (tmp_path / "shipped").mkdir()
    assert shipped_directory() == tmp_path / "shipped"


def test_a_network_is_compiled_from_what_ships_alone(
    tuned: Tuned, lowered: LoweredNetwork, target: str, tmp_path: Path
) -> None:
    name = store_name("board", target)
    tuned.store.subset(lowered.kernels, tmp_path / "shipped" / name)
    records = open_records(
        tmp_path / "mine", profile_key="board", target=target, shipped=tmp_path / "shipped"
    )
    assert records.missing(lowered.kernels) == []
    artifact = compile_network(lowered, records, tmp_path / "net.so")
    assert artifact.tuned_kernels == len(lowered.kernels)
    assert artifact.path.stat().st_size == artifact.size_bytes > 0


def test_what_this_repository_ships_is_whole_and_of_the_networks_that_it_names() -> None:
    """Fails too when a change of lowering gives kernels other keys: the records have to be tuned again then."""
    directory = shipped_directory()
    assert directory is not None
    (store,) = (path for path in directory.iterdir() if path.is_dir())
    assert check_store(store) == ()
    records = RecordStore.read(store, target=StoreManifest.read(store).target)
    assert store.name == store_name("local", records.target)
    for key in ("mnasnet-b1", "mobilenet-v2"):
        entry = zoo_entry(key)
        lowered = lower_network(entry.build().eval(), entry.input_shape, records.target)
        assert records.missing(lowered.kernels, schedules_per_kernel=32) == []
        assert all(records.has(kernel.key) for kernel in lowered.kernels)
