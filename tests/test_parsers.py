"""Whatever a parser is given, it returns something or raises one clear line; what it returns, it writes back alike.

Some dozens of examples each with the other tests; ten thousand with
`pytest --hypothesis-profile=long tests/test_parsers.py`.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.runs import make_latency, make_manifest, make_success, sample_architectures
from tvm_mnas.commands.options import parse_shape
from tvm_mnas.compiler.records.formats import parse_event, parse_schedule, parse_workload
from tvm_mnas.config import SearchConfig, parse_untuned_share
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.devices.core.profile import DeviceProfile, parse_tracker, shipped_profiles
from tvm_mnas.devices.core.state import DeviceState
from tvm_mnas.errors import RunError, TvmMnasError
from tvm_mnas.evaluation.manifest import Manifest
from tvm_mnas.evaluation.results import Evaluation
from tvm_mnas.resources import resource_directory
from tvm_mnas.search.reward import parse_latency
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.files import parse_space
from tvm_mnas.space.scaling import Scaling
from tvm_mnas.training.data.images import ShippedSpec
from tvm_mnas.workflows.model_ref import resolve_model

ODD = "\x00\x1b\n\r\t \"'\\[]{}=:,.-+%@/#٣½é\u202e🦙" + "0123456789eExXnN_"
"""What tends to break parsers."""


def mutations(valid: list[str]) -> st.SearchStrategy[str]:
    """Texts that were valid until somebody's fingers slipped a few times."""

    def slip(text: str, seed: int, slips: int) -> str:
        rng = random.Random(seed)
        letters = list(text)
        for _ in range(slips):
            at = rng.randrange(len(letters) + 1)
            match rng.randrange(4):
                case 0:
                    letters.insert(at, rng.choice(ODD))
                case 1:
                    del letters[at : at + rng.randrange(1, 4)]
                case 2:
                    letters[at : at + 1] = rng.choice(ODD)
                case _:
                    letters[at:at] = letters[at : at + rng.randrange(1, 30)]
        return "".join(letters)

    return st.builds(
        slip, st.sampled_from(valid), st.integers(0, 2**32), st.integers(min_value=0, max_value=4)
    )


def one_line(error: Exception) -> None:
    text = str(error)
    assert text.strip(), "no message"
    assert "\n" not in text, text


def check(parse: Callable[[str], object], text: str) -> object | None:
    """Return what `parse` makes of `text`, None where it refuses it in one line."""
    try:
        return parse(text)
    except TvmMnasError as error:
        one_line(error)
        return None


def texts(*valid: str) -> st.SearchStrategy[str]:
    return st.text(max_size=80) | st.text(alphabet=ODD, max_size=40) | mutations(list(valid))


B1 = "i32_c3_w1:stem8_s22:r1_k5_s22_e3_i8_o16:head32:n10"


@given(texts("80ms", "0.08s", " 900 us", "12µs"))
def test_a_latency(text: str) -> None:
    latency_ms = check(parse_latency, text)
    if latency_ms is not None:
        assert isinstance(latency_ms, float) and 0 < latency_ms < math.inf
        assert parse_latency(f"{latency_ms:.17f}ms" if latency_ms < 1e15 else text) > 0


@given(texts("5%", "0.05", " 12.5 % ", "0"))
def test_a_share(text: str) -> None:
    share = check(parse_untuned_share, text)
    assert share is None or (isinstance(share, float) and 0 <= share < 1)


@given(texts("1,3,224,224", " 1, 1 ,28,28"))
def test_an_input_shape(text: str) -> None:
    shape = check(parse_shape, text)
    if shape is not None:
        assert isinstance(shape, tuple) and all(size > 0 for size in shape)
        assert parse_shape(",".join(map(str, shape))) == shape


@given(texts("127.0.0.1:9190", "[::1]:9190", "farm.local:80"))
def test_a_tracker(text: str) -> None:
    address = check(parse_tracker, text)
    assert address is None or parse_tracker(str(address)) == address


@given(texts(B1, "i224_c3_w0.35:stem32_s22:r2_k3_s22_conv_i16_o24_se0.25_noskip:head1280:n1000"))
def test_an_architecture(text: str) -> None:
    architecture = check(Architecture.parse, text)
    if architecture is not None:
        assert isinstance(architecture, Architecture)
        again = Architecture.parse(architecture.notation)
        assert (again, again.id) == (architecture, architecture.id)


@given(texts(B1, "examples.own_space:build@3x32,n10?width=8&depth=1"))
def test_a_candidate(text: str) -> None:
    candidate: Any = check(parse_candidate, text)
    assert candidate is None or parse_candidate(candidate.notation) == candidate


@given(texts("0.35,96", "1.0,224", "w0.5_i128"))
def test_a_scaling(text: str) -> None:
    check(Scaling.parse, text)


@given(texts("embedded", "idx:/data/mnist", "imagenet:~/images"))
def test_a_data_spec(text: str) -> None:
    spec = check(ShippedSpec.parse, text)
    assert spec is None or isinstance(spec, ShippedSpec)


@given(texts("mobilenet_v2", "mnasnet_b1@0.35,96", B1, "net.onnx", "net.pt2", "run/best"))
def test_a_model(text: str) -> None:
    check(resolve_model, text)


PROFILES = [path.read_text(encoding="utf-8") for path in shipped_profiles().values()]
SPACES = [
    path.read_text(encoding="utf-8") for path in resource_directory("search_space").glob("*.toml")
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "any.toml"


@given(text=mutations(PROFILES) | st.text(max_size=60))
def test_a_profile(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")

    def read(path: str) -> DeviceProfile:
        return DeviceProfile.from_toml(Path(path))

    profile = check(read, str(file))
    if profile is not None:
        assert isinstance(profile, DeviceProfile)
        file.write_text(profile.to_toml(), encoding="utf-8")
        assert DeviceProfile.from_toml(file) == profile


@given(mutations(SPACES) | st.text(max_size=60))
def test_a_space(text: str) -> None:
    space: Any = check(lambda given: parse_space(given, Path("mine.toml")), text)
    if space is not None:
        rng = random.Random(0)
        tokens = space.sample(rng)
        assert Architecture.parse(space.decode(tokens).notation) == space.decode(tokens)


@given(text=mutations([SearchConfig().to_toml()]) | st.text(max_size=60))
def test_a_run_s_configuration(text: str, file: Path) -> None:
    (file.parent / "config.toml").write_text(text, encoding="utf-8", newline="")

    def read(path: str) -> SearchConfig:
        return RunDirectory.open(Path(path)).config

    config = check(read, str(file.parent))
    if config is not None:
        assert isinstance(config, SearchConfig)
        (file.parent / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        assert RunDirectory.open(file.parent).config == config


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([-1, 0, 1e308, "", "nan", math.inf, math.nan, 2**70])
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path] if path else []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def damaged(valid: object) -> st.SearchStrategy[Any]:
    """A valid JSON value with another value at one or two places, or without what was there; or anything."""

    def damage(changes: list[tuple[tuple[Any, ...], bool, Any]]) -> Any:
        made: Any = copy.deepcopy(valid)
        for path, removed, value in changes:
            place = made
            try:
                for key in path[:-1]:
                    place = place[key]
                if removed:
                    del place[path[-1]]
                else:
                    place[path[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue  # gone with another change
        return made

    change = st.tuples(st.sampled_from(places(valid)), st.booleans(), JSON)
    return st.builds(damage, st.lists(change, max_size=2)) | JSON


(ARCHITECTURE,) = sample_architectures(1)
LATENCY = make_latency(4.5, reference_change=0.01)
EVALUATION = make_success(0, ARCHITECTURE, 0.7, LATENCY).evaluation
MANIFEST = make_manifest(ARCHITECTURE, LATENCY)


def plain(value: object) -> Any:
    return json.loads(json.dumps(value))


@given(damaged(plain(LATENCY.to_dict())).map(json.dumps) | texts(LATENCY.to_json()))
def test_a_stored_latency(text: str) -> None:
    latency = check(Latency.from_json, text)
    if latency is not None:
        assert isinstance(latency, Latency)
        assert Latency.from_json(latency.to_json()) == latency


@given(damaged({"frequency_khz": 1, "governor": "performance", "throttled_us": 5}))
def test_a_stored_state(values: Any) -> None:
    state = check(DeviceState.from_dict, values)
    if state is not None:
        assert isinstance(state, DeviceState)
        assert DeviceState.from_dict(state.to_dict()) == state


@given(damaged(plain(MANIFEST.to_json())))
def test_a_manifest(values: Any) -> None:
    manifest: Any = check(Manifest.from_json, values)
    if manifest is not None:
        assert Manifest.from_json(plain(manifest.to_json())) == manifest


@given(damaged(plain(EVALUATION.to_json())))
def test_a_stored_evaluation(values: Any) -> None:
    """Who reads one translates these errors, with the run and the trial."""
    try:
        evaluation = Evaluation.from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError, TvmMnasError) as error:
        one_line(RunError(f"{type(error).__name__}: {error}"))
    else:
        assert Evaluation.from_json(plain(evaluation.to_json())) == evaluation


LINES = [
    json.dumps(["12345", "AAAA"]),
    json.dumps([0, [[1, 2], [0.001, 0.002], {"kind": "llvm"}, [["TENSOR", "float32", [1, 2]]]]]),
    json.dumps(
        {
            "key": "k",
            "name": "n",
            "budget": 8,
            "measured": 8,
            "failures": {"error": 1},
            "duration_s": 1.5,
            "flops": 7,
        }
    ),
]


@pytest.mark.parametrize("parse", [parse_workload, parse_schedule, parse_event])
@given(line=mutations(LINES).map(str.encode) | JSON.map(json.dumps).map(str.encode) | st.binary())
def test_a_line_of_records(parse: Callable[[bytes], object], line: bytes) -> None:
    try:
        parse(line)
    except ValueError as error:
        one_line(error)
