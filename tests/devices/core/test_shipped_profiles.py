"""Every shipped profile reads back the same, and LLVM knows its processor and features."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mnas.devices.core.profile import DeviceProfile, read_profile, shipped_profiles

# An unknown triple crashes TVM, so a child asks it.
_ASK = """
import json, sys
from tvm.target import Target, codegen
for text in json.load(sys.stdin):
    target = json.loads(text)
    bare = Target({"kind": "llvm", "mtriple": target["mtriple"], "num-cores": 1})
    assert target["mcpu"] in set(map(str, codegen.llvm_get_cpu_archlist(bare))), target
    has = set(map(str, codegen.llvm_get_cpu_features(Target(target))))
    for word in target["mattr"]:
        assert (word[1:] in has) == (word[0] == "+"), (target, word)
"""


@pytest.mark.parametrize("key", shipped_profiles())
def test_it_reads_back_the_same(key: str, tmp_path: Path) -> None:
    profile = read_profile(key)
    copy = tmp_path / "copy.toml"
    copy.write_text(profile.to_toml(), encoding="utf-8")
    assert profile.key == key
    assert DeviceProfile.from_toml(copy) == profile


def test_llvm_knows_every_processor_and_feature() -> None:
    targets = [p.target for p in map(read_profile, shipped_profiles()) if p.target != "host"]
    assert targets
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        input=json.dumps(targets),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
