"""The emulator that counts: right by class against code whose instructions are known, and left out where it cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tvm_mnas.devices.servers.emulator import Emulator, find_emulator
from tvm_mnas.errors import BundleError

CROSS_GCC = shutil.which("aarch64-linux-gnu-gcc")
QEMU = shutil.which("qemu-aarch64")
LOOPS = 1000

KNOWN = r"""
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static uint64_t before[8], after[8];
static float memory[16] __attribute__((aligned(16)));
static void work(long loops) {
  __asm__ volatile(
      "1: fmla v0.4s, v1.4s, v2.4s\n"
      "fmls v3.4s, v1.4s, v2.s[1]\n"
      "fadd v4.4s, v1.4s, v2.4s\n"
      "ldp q5, q6, [%1]\n"
      "ld1r {v7.4s}, [%1]\n"
      "ldrsw x9, [%1]\n"
      "ldr w9, [%1, #4]\n"
      "stp q5, q6, [%1]\n"
      "add x9, x9, #1\n"
      "subs %0, %0, #1\n"
      "b.ne 1b\n" : "+r"(loops) : "r"(memory)
      : "memory", "x9", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "cc");
}
int main(void) {
  work(1);
  syscall(0x4d4e41, before);
  work(LOOPS);
  syscall(0x4d4e41, after);
  for (int i = 0; i < 8; ++i) printf("%lu ", (unsigned long)(after[i] - before[i]));
  return 0;
}
"""

STATIC = """#!/bin/sh
if [ "$1" = --version ]; then echo "qemu-aarch64 version 7.2.0"; exit 0; fi
echo "qemu: unknown option 'plugin'" >&2
exit 1
"""


@pytest.mark.skipif(CROSS_GCC is None or QEMU is None, reason="needs make arm-tools")
def test_it_counts_by_class_what_a_program_of_known_code_runs(tmp_path: Path) -> None:
    assert CROSS_GCC is not None
    source, program = tmp_path / "known.c", tmp_path / "known"
    source.write_text(KNOWN)
    options = ["-O2", "-static", f"-DLOOPS={LOOPS}"]
    subprocess.run([CROSS_GCC, *options, str(source), "-o", str(program)], check=True, timeout=60)
    emulator = find_emulator("aarch64", cache=tmp_path)
    assert emulator.plugin is not None
    assert emulator.plugin.parent == tmp_path / "servers"
    printed = subprocess.run(
        emulator.command([str(program)]), capture_output=True, text=True, check=True, timeout=60
    ).stdout
    total, *by_class, rest = (int(count) for count in printed.split())
    # A few instructions more: those of the call itself.
    for found, each in zip(by_class, (2, 4, 1, 1, 2, 1), strict=True):
        assert each * LOOPS <= found < each * LOOPS + 40, printed
    assert sum(by_class) == total
    assert rest == 0


def test_an_emulator_that_takes_no_plugin_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("cc", "as", "ld"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    static = tools / "qemu-aarch64-static"
    static.write_text(STATIC)
    static.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    emulator = find_emulator("aarch64", cache=tmp_path)
    assert emulator == Emulator(str(static), None)
    assert emulator.command(["program"]) == [str(static), "-cpu", "max", "program"]
    assert list((tmp_path / "servers").glob("count-*.so")), "it was asked whether it takes one"


def test_one_that_is_lacking_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BundleError, match="needs qemu-aarch64.*apt-get install qemu-user"):
        find_emulator("aarch64")
