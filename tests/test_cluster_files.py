"""The files that start a Ray cluster: those of examples/cluster, as a user copies them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tvm_mnas.evaluation.executors.protocol import ExecutorRequest
from tvm_mnas.plugins import EXECUTORS

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "examples" / "cluster"


def pinned(package: str) -> str:
    (version,) = re.findall(
        rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE
    )
    return version


def test_the_file_of_hosts_is_by_the_schema_of_ray() -> None:
    pytest.importorskip("ray")
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    hosts = yaml.safe_load((FILES / "hosts.yaml").read_text())
    assert hosts["min_workers"] == hosts["max_workers"] == len(hosts["provider"]["worker_ips"])
    prepared = prepare_config(hosts)
    validate_config(prepared)
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepared, "providers": {}})


def test_the_file_of_kubernetes_has_the_versions_and_groups_it_needs() -> None:
    text = (FILES / "kuberay.yaml").read_text()
    cluster = yaml.safe_load(text)
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert spec["rayVersion"] == pinned("ray")
    assert f"rayproject/ray:{pinned('ray')}-py311-gpu" in text
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("path", sorted(FILES.iterdir()), ids=lambda path: path.name)
def test_every_executor_in_them_is_one(path: Path) -> None:
    pytest.importorskip("ray")
    found = re.findall(r"--executor (\S+)", path.read_text())
    assert found
    for name in found:
        EXECUTORS.load(name)(ExecutorRequest())


SRUN = """#!/bin/bash
# Runs here what it is to run on a node.
while [[ $1 == --* ]]; do shift; done
if [[ $1 == hostname ]]; then echo "$NODE_ADDRESS 127.0.0.1"; exit; fi
exec "$@"
"""
SEARCH = """#!{python}
import sys, time
import ray
ray.init("auto", log_to_driver=False, logging_level="error")
end = time.monotonic() + 60
while sum(node["Alive"] for node in ray.nodes()) < 2 and time.monotonic() < end:
    time.sleep(0.2)
print(sum(node["Alive"] for node in ray.nodes()), "nodes:", *sys.argv[1:], flush=True)
"""


@pytest.mark.slow
def test_the_script_for_slurm_starts_a_cluster_and_goes_on(tmp_path: Path) -> None:
    """SLURM's own commands are stand-ins that do on this machine what they would do on a node; Ray is real."""
    pytest.importorskip("ray")
    from ray.util import get_node_ip_address

    programs = tmp_path / "tvm-mnas" / "bin"
    programs.mkdir(parents=True)
    for name, text in (
        ("srun", SRUN),
        ("scontrol", "#!/bin/bash\necho first\necho second\n"),
        ("tvm-mnas", SEARCH.format(python=sys.executable)),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "ray").symlink_to(Path(sys.executable).parent / "ray")
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "NODE_ADDRESS": get_node_ip_address(),
        "PORT": "36379",
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_JOB_NUM_NODES": "2",
    }
    printed = []
    for _ in range(2):
        done = subprocess.run(
            [str(FILES / "slurm.sh")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        printed += [line for line in done.stdout.splitlines() if " nodes: " in line]
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.toml").touch()
    assert printed[0].startswith("2 nodes: search --space mnasnet")
    assert printed[1] == f"2 nodes: search --resume {tmp_path}/run"
