"""Runs in a build worker: proposes schedules for a kernel and builds each into a shared library.

`python -m tvm_mnas.compiler.tuning.worker_main READ_FD WRITE_FD CORES` reads requests and writes replies, one JSON
value a line. It imports TVM once. What is built runs in a process forked from here, one for the schedules of a round: a
compiler that crashes or hangs costs one schedule, those after it go to a new process, and what it leaks ends there.

A convolution's first schedules are register tiles (`convolution.py`), the most promising first; those of a pooling or a
classifier hold the sums of some channels in registers (`reduction.py`), and those of a kernel that sums nothing go
through its output row by row (`elementwise.py`). For other kernels, and after that, MetaSchedule's generic space: a
first round draws schedules at random, a later one evolves them from what was measured, ranked by the XGBoost cost
model. The model sees its kernel's records alone, so a round needs nothing that is not in the request.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import FileIO
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tvm_mnas.compiler.core.dots import know_dots_of
from tvm_mnas.compiler.core.linking import Linker
from tvm_mnas.compiler.core.marks import as_marked
from tvm_mnas.compiler.core.metaschedule import EQUALITY, keep_to_cpu_intrinsics, load_meta_schedule
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.schedules.convolution import propose_convolutions
from tvm_mnas.compiler.schedules.elementwise import propose_elementwise
from tvm_mnas.compiler.schedules.head import propose_heads
from tvm_mnas.compiler.schedules.joined import propose_joined
from tvm_mnas.compiler.schedules.reduction import propose_reductions
from tvm_mnas.processes import ask_to_be_killed, block_torch, die_with_parent

_EMPTY_ROUNDS = 3
"""After this many generations without a new schedule the kernel has no more."""

_POSTPROCESSED = "EnterPostproc"
_REWRITES = "meta_schedule.layout_rewrite_preproc"
TILES = 32
"""How many register tiles a convolution gets: the best one has always been among the first dozen."""

_NICE = 10
_STEP_S = 0.1
_POPULATION = 64
_GENERATIONS = 2


def main(arguments: list[str]) -> None:
    """Answer requests until the pipe closes."""
    die_with_parent()
    read_fd, write_fd, cores = arguments
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    # Who measures on another core has a word to say here now and then, and must not wait for its turn.
    os.nice(_NICE)
    block_torch()
    keep_to_cpu_intrinsics()
    load_meta_schedule()
    _load_compiler()
    with os.fdopen(int(read_fd), "r") as requests, os.fdopen(int(write_fd), "w") as replies:
        for line in requests:
            replies.write(json.dumps(_answer(json.loads(line))) + "\n")
            replies.flush()


def _load_compiler() -> None:
    """Compile something, so that no forked build has to import what compiling needs."""
    import tvm
    from tvm import te

    one = te.placeholder((1,), name="one")
    kernel = te.create_prim_func([one, te.compute((1,), lambda i: one[i] + 1.0, name="two")])
    tvm.compile(tvm.IRModule({"main": kernel}), target=load_target("llvm"))


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        candidates = _propose(request)
    except Exception as error:
        # Whatever TVM raises while it searches, this round has no schedules and the worker goes on.
        return {"error": f"{type(error).__name__}: {str(error).strip()[-300:]}", "built": []}
    linker = Linker(tuple(request["linker"]))
    paths = [Path(f"{request['prefix']}-{number}.so") for number in range(len(candidates))]
    modules = [module for _, module in candidates]
    failures: list[str | None] = []
    while len(failures) < len(paths):
        left = list(zip(modules, paths, strict=True))[len(failures) :]
        failures += _build_apart(left, request["target"], linker, request["deadline_s"])
    built: list[dict[str, Any]] = []
    for (record, _), path, failure in zip(candidates, paths, failures, strict=True):
        if failure is not None:
            print(f"{path.name}: {failure}", file=sys.stderr, flush=True)
        built.append({"record": record, "path": str(path), "failure": failure})
    return {"error": None, "built": built}


def _propose(request: Mapping[str, Any]) -> list[tuple[list[Any], Any]]:
    """Return up to `schedules` new schedules as (record without run times, scheduled module)."""
    meta_schedule = load_meta_schedule()
    database = meta_schedule.database
    target = load_target(request["target"])
    memory = database.MemoryDatabase(module_equality=EQUALITY)
    loaded = database.Workload.from_json(json.loads(request["workload"]))
    workload = memory.commit_workload(loaded.mod)
    records = [database.TuningRecord.from_json(json.loads(r), workload) for r in request["records"]]
    for record in request["records"]:
        know_dots_of(record)
    # Replaying takes milliseconds each.
    known = [(record, record.as_measure_candidate()) for record in records]
    seen = {_identity(candidate.sch) for _, candidate in known}
    schedules = int(request["schedules"])
    found: list[Any] = []
    first = chain(
        islice(propose_convolutions(loaded.mod, request["target"]), TILES),
        islice(propose_joined(loaded.mod, request["target"]), TILES),
        propose_heads(loaded.mod, request["target"]),
        propose_elementwise(loaded.mod, request["target"]),
        propose_reductions(loaded.mod, request["target"]),
    )
    for schedule in first:
        if len(found) == schedules:
            break
        if _identity(schedule) not in seen:
            seen.add(_identity(schedule))
            found.append(schedule)
    if len(found) < schedules:
        seed = random.Random(request["seed"]).randrange(1, 2**30)
        found += _generic(loaded.mod, target, memory, known, seen, schedules - len(found), seed)
    new = [
        database.TuningRecord(
            schedule.trace,
            workload,
            None,
            target,
            meta_schedule.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True),
        )
        for schedule in found
    ]
    written = _records_of(meta_schedule, new, loaded.mod)
    return list(zip(written, (schedule.mod for schedule in found), strict=True))


def _generic(
    module: Any,
    target: Any,
    memory: Any,
    known: Sequence[tuple[Any, Any]],
    seen: set[int],
    schedules: int,
    seed: int,
) -> list[Any]:
    """Return up to `schedules` schedules of MetaSchedule's generic space that are not in `seen`, and add them to it.

    Of the `known` records, each with its candidate, those of the generic space, which `memory` gets, are evolved; all
    teach the cost model.
    """
    meta_schedule = load_meta_schedule()
    generic = [record for record, _ in known if _is_generic(record)]
    for record in generic:
        memory.commit_tuning_record(record)
    strategies = meta_schedule.search_strategy
    strategy = (
        strategies.EvolutionarySearch(
            population_size=_POPULATION,
            init_min_unmeasured=_POPULATION // 2,
            genetic_num_iters=_GENERATIONS,
        )
        if generic
        else strategies.ReplayTrace()
    )
    context = meta_schedule.TuneContext(
        module,
        target=target,
        space_generator="post-order-apply",
        search_strategy=strategy,
        rand_state=seed,
        num_threads=1,
    ).clone()
    context.pre_tuning(
        max_trials=schedules * (_EMPTY_ROUNDS + 1),
        num_trials_per_iter=schedules,
        design_spaces=context.generate_design_space(),
        database=memory,
        cost_model=_cost_model(meta_schedule, context, known),
    )
    found: list[Any] = []
    empty = 0
    while len(found) < schedules and empty < _EMPTY_ROUNDS:
        candidates = context.generate_measure_candidates()
        if not candidates:
            break
        before = len(found)
        for candidate in candidates:
            identity = _identity(candidate.sch)
            if identity not in seen and len(found) < schedules:
                seen.add(identity)
                found.append(candidate.sch)
        empty = empty + 1 if len(found) == before else 0
        failed = meta_schedule.runner.RunnerResult(None, "not measured here")
        context.notify_runner_results(candidates, [failed] * len(candidates))
    return found


def _is_generic(record: Any) -> bool:
    """Whether a record is of MetaSchedule's generic space.

    The search would post-process the others, which know nothing of that, once more and fail.
    """
    return any(str(step.kind.name) == _POSTPROCESSED for step in record.trace.insts)


def _cost_model(meta_schedule: Any, context: Any, known: Sequence[tuple[Any, Any]]) -> Any:
    if not known:
        return meta_schedule.cost_model.RandomModel()
    model = meta_schedule.cost_model.XGBModel(num_warmup_samples=0)
    results = [
        meta_schedule.runner.RunnerResult([float(run) for run in record.run_secs], None)
        for record, _ in known
    ]
    model.update(context, [candidate for _, candidate in known], results)
    return model


def _identity(schedule: Any) -> int:
    import tvm.s_tir
    import tvm_ffi

    # The mark of a block that rewrites weights is True in a schedule that was just made, and 1 in the same one read
    # from its record: without it both have one hash. TVM cannot copy a schedule that has an intrinsic.
    plain = tvm.s_tir.Schedule(schedule.mod)
    for block in plain.get_child_blocks(plain.get_sblock("root")):
        if _REWRITES in plain.get(block).annotations:
            plain.unannotate(block, _REWRITES)
    return int(tvm_ffi.structural_hash(plain.mod))


def _records_of(meta_schedule: Any, records: list[Any], module: Any) -> list[list[Any]]:
    """Return `records` as JSON values in MetaSchedule's form.

    Only its own database writes every part of a trace, so it does, into a directory that is then read back.
    """
    with tempfile.TemporaryDirectory(prefix="records-", dir=".") as directory:
        database = meta_schedule.database.JSONDatabase(work_dir=directory, module_equality=EQUALITY)
        database.commit_workload(module)
        for record in records:
            database.commit_tuning_record(record)
        lines = Path(directory, "database_tuning_record.json").read_text(encoding="utf-8")
    return [json.loads(line)[1] for line in lines.splitlines()]


def _build_apart(
    builds: Sequence[tuple[Any, Path]], target: str, linker: Linker, deadline_s: float
) -> list[str | None]:
    """Build each module of `builds` into its library in a forked process, up to one that ends or outlasts it.

    Return why each of those failed, its reason first, or None: at least one, and fewer than `builds` where the process
    did not reach the others. Forking takes as long as a third of a small build, so that one process has them all.
    """
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        _build_and_exit(builds, target, linker, write_fd)
    os.close(write_fd)
    failures: list[str | None] = []
    with os.fdopen(read_fd, "rb", buffering=0) as pipe:
        while len(failures) < len(builds):
            line = _read_line(pipe, deadline_s)
            if line is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return [*failures, f"build-timeout: no result within {deadline_s:g} s"]
            if not line:
                break
            failures.append(json.loads(line))
    _, status = os.waitpid(child, 0)
    if len(failures) < len(builds):
        ended = os.waitstatus_to_exitcode(status)
        how = f"signal {-ended}" if ended < 0 else f"exit code {ended}"
        failures.append(f"build-crash: {how}")
    return failures


def _read_line(pipe: FileIO, deadline_s: float) -> bytes | None:
    """Return the next line of `pipe`, nothing at its end, None where neither comes within `deadline_s`.

    The time is counted in small steps, of which one at most passes while this process is stopped. Whatever ends the
    process at the other end closes it.
    """
    line = b""
    waited_s = 0.0
    while not line.endswith(b"\n"):
        if not select.select([pipe], [], [], _STEP_S)[0]:
            waited_s += _STEP_S
            if waited_s >= deadline_s:
                return None
            continue
        chunk = pipe.read(1)
        if not chunk:
            return b""
        line += chunk
    return line


def _build_and_exit(
    builds: Sequence[tuple[Any, Path]], target: str, linker: Linker, write_fd: int
) -> None:
    try:
        ask_to_be_killed()
        for module, path in builds:
            os.write(write_fd, json.dumps(_build(module, target, path, linker)).encode() + b"\n")
    finally:
        # Not sys.exit: this is a fork, and what its parent registered at exit is not its own.
        os._exit(0)


def _build(module: Any, target: str, path: Path, linker: Linker) -> str | None:
    """Build `module` into the library `path`; return why that failed, its reason first, or None."""
    import tvm
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    try:
        scheduled = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
        library = tvm.compile(as_marked(scheduled), target=load_target(target))
        objects = path.with_suffix(".o")
        library.mod.write_to_file(str(objects))
        linker.link([objects], path)
        objects.unlink()
    except Exception as error:
        return f"build-error: {type(error).__name__}: {str(error).strip()[-300:]}"
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
