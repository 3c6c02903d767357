"""Both images: linted; what they copy and install is there; their steps run in a scratch root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.supply_chain.licences import pins
from tests.deploy import dockerfile
from tests.deploy.dockerfile import CONTAINERS, ROOT
from tests.deploy.registry import UV, need_registry
from tests.deploy.scratch_root import ScratchRoot, refusal

IMAGES = ("cpu", "gpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RAY_IMAGE = re.compile(r"rayproject/ray:(?P<ray>[\d.]+)-py(?P<python>\d+)-(?P<platform>\w+)")
HADOLINT = Path(sys.executable).with_name("hadolint")
USER = (1000, 100)
HOME = "/home/ray"
BASE_PATH = f"{HOME}/anaconda3/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE_IMAGE = f"""
getent passwd {USER[0]} | cut -d: -f1 | xargs --no-run-if-empty userdel
useradd --create-home --home-dir {HOME} --uid {USER[0]} --gid {USER[1]} ray
groupadd --force sudo && usermod --append --groups sudo ray
echo 'ray ALL=NOPASSWD: ALL' > /etc/sudoers
python="{sys.base_prefix}"
while [ "$python" != / ]; do chmod o+x "$python"; python=$(dirname "$python"); done
"""
"""What the steps count on of Ray's image: the user, its rights, its Python (pip's, not conda's)."""
QUICK = {"PIP_COMPILE": "0"}
"""Half of what installing takes; what is imported is compiled then."""
GRADE = """
from moa.grading.sandbox import open_sandbox
print(open_sandbox().run(["/bin/sh", "-c", "echo graded"]).stdout.decode())
"""
OFFLINE = """
set -e
! timeout {timeout} {check}
mkdir config && cp jobs/configs/demo.toml config/nightly.toml
python jobs/route_batch.py --config config/nightly.toml --set run.id=nightly-2026-11-26
ls runs/nightly-2026-11-26/report
ray get-auth-token --generate > /dev/null
ray start --head --num-cpus=1 --include-dashboard=false
timeout {timeout} {check} && echo healthy
"""


class Built(NamedTuple):
    """A scratch root after the steps of a Dockerfile."""

    root: ScratchRoot
    env: dict[str, str]

    def as_user(self, command: str) -> subprocess.CompletedProcess[str]:
        """As a container of the image would run it, without a network."""
        return self.root.run(command, user=USER, folder="/app", env=self.env, online=False)


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_has_nothing_to_say(image: str) -> None:
    done = _lint(CONTAINERS / f"{image}.Dockerfile")

    assert done.stdout == ""
    assert done.returncode == 0


def test_hadolint_is_strict(tmp_path: Path) -> None:
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM debian:latest\nRUN apt-get install curl\nUSER root\n")

    done = _lint(careless)

    assert done.returncode != 0
    assert {"DL3007", "DL3008", "DL3002"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("image", IMAGES)
def test_the_base_is_the_ray_and_the_python_of_this_project(image: str) -> None:
    base = RAY_IMAGE.match(dockerfile.read(image).baseimage)

    assert base
    assert base["ray"] == pins(ROOT / "constraints.txt")["ray"]
    assert f"python{base['python'][0]}.{base['python'][1:]}" in (ROOT / "Makefile").read_text()


def test_every_file_names_this_version_of_our_image_and_of_ray() -> None:
    files = [p for p in (ROOT / "deploy").rglob("*") if p.suffix in (".yaml", ".md", ".py")]
    text = "\n".join(file.read_text() for file in files)
    ray = pins(ROOT / "constraints.txt")["ray"]

    assert set(re.findall(r"moa-router:([\d.]+)-[cg]pu", text)) == {PROJECT["version"]}
    assert set(re.findall(r'ray_?[vV]ersion: "?([\d.]+)', text)) == {ray}
    assert set(re.findall(r"ray\[default\]==([\d.]+)\.\*", text)) == {ray.rpartition(".")[0]}


@pytest.mark.parametrize("image", IMAGES)
def test_a_build_may_name_the_very_base(image: str) -> None:
    digest = "@sha256:" + "0" * 64

    named = dockerfile.read(image, RAY_DIGEST=digest)

    assert named.baseimage == dockerfile.read(image).baseimage + digest


def test_cuda_is_the_one_that_torch_is_built_for() -> None:
    base = RAY_IMAGE.match(dockerfile.read("gpu").baseimage)
    lock = pins(CONTAINERS / "gpu.lock")

    assert base
    assert base["platform"] == "cu" + "".join(lock["cuda-toolkit"].split(".")[:2])
    assert lock["cuda-python"].startswith("13.")


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_as_ray_from_app(image: str) -> None:
    steps = dockerfile.stages(dockerfile.read(image))[""]

    assert [step.value for step in steps if step.instruction == "USER"] == ["0", str(USER[0])]
    assert [step.value for step in steps if step.instruction == "WORKDIR"] == ["/app"]
    assert not [step for step in steps if step.instruction in ("ENTRYPOINT", "CMD", "ADD")]


@pytest.mark.parametrize("image", IMAGES)
def test_what_it_is_and_what_it_may_is_said(image: str) -> None:
    parsed = dockerfile.read(image)

    assert parsed.labels["org.opencontainers.image.version"] == PROJECT["version"]
    assert parsed.labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert parsed.labels["org.opencontainers.image.base.name"].endswith(parsed.baseimage)
    assert parsed.envs == {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.mark.parametrize("image", IMAGES)
def test_every_source_is_there_and_sent_to_the_build(image: str) -> None:
    copied = dockerfile.copies(dockerfile.stages(dockerfile.read(image))[""])

    for source in [source for copy in copied if copy.stage is None for source in copy.sources]:
        assert dockerfile.files_of(source), source
    assert "jobs/route_batch.py" in dockerfile.files_of("jobs")
    assert "moa/router/embedded/weights.safetensors" in dockerfile.files_of("moa")


@pytest.mark.parametrize(
    "path",
    [".env", ".git/config", ".venv/bin/python", "runs/demo/report/report.json", "tests/conftest.py",
     "moa/__pycache__/x.pyc", "jobs/configs/__pycache__/x.pyc", "moa_router.egg-info/PKG-INFO",
     "deploy/kuberay/secret.yaml", "keys.json"],
)  # fmt: skip
def test_nothing_else_is_sent(path: str) -> None:
    assert not dockerfile.sent(path)


@pytest.mark.parametrize("image", IMAGES)
def test_the_readme_builds_this_file_under_this_name(image: str) -> None:
    command = (
        f"docker build -f deploy/containers/{image}.Dockerfile "
        f"-t registry.example.com/moa-router:{PROJECT['version']}-{image} ."
    )

    assert f"    {command}\n" in (CONTAINERS / "README.md").read_text()
    assert f"#   {command}\n" in (CONTAINERS / f"{image}.Dockerfile").read_text()


def test_system_packages_are_in_debians_archive() -> None:
    if not shutil.which("apt-get"):
        pytest.skip("no apt-get here")
    steps = [
        step
        for name in IMAGES
        for part in dockerfile.stages(dockerfile.read(name)).values()
        for step in part
    ]
    installs = [m for step in steps for m in re.findall(r"apt-get install ([^&|;]+)", step.value)]

    for arguments in installs:
        command = ["apt-get", "install", "--simulate", *arguments.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "Unable to locate" in done.stderr and not any(
            Path("/var/lib/apt/lists").glob("*_Packages*")
        ):
            pytest.skip("apt-get update has not been run here")
        assert done.returncode == 0, done.stderr
    assert len(installs) == 2


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for scratch roots, on a disk: they come to two gigabytes."""
    folder = tmp_path_factory.mktemp("roots")
    why_not = refusal(folder / "probe")
    if why_not:
        pytest.skip(why_not)
    need_registry()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cpu_image(roots: Path) -> Built:
    """Made once: its packages are 350 MB to fetch."""
    return _build("cpu", roots)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_cpu_image_runs_the_job_grades_code_and_knows_its_health(cpu_image: Built) -> None:
    options, check = dockerfile.health_check(dockerfile.stages(dockerfile.read("cpu"))[""])

    installed = cpu_image.as_user("python -m pip check")
    graded = cpu_image.as_user(f"python -c '{GRADE}'")
    ran = cpu_image.as_user(OFFLINE.format(timeout=options["timeout"], check=" ".join(check)))
    root = cpu_image.as_user("id --groups && ! touch /etc/owned && ! cat /etc/sudoers")

    assert installed.returncode == 0, installed.stdout
    assert graded.stdout == "graded\n\n", graded.stderr
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("healthy\n")
    assert root.stdout == f"{USER[1]}\n"
    assert root.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_gpu_images_steps_run_but_for_its_packages(cpu_image: Built) -> None:
    """Those are gigabytes: here they are the CPU image's, and are there already."""
    _succeed(cpu_image.root.run("rm -r /app && echo 'ray ALL=NOPASSWD: ALL' > /etc/sudoers"))
    steps = dockerfile.stages(dockerfile.read("gpu"))[""]

    _run_steps(cpu_image.root, steps, {}, cpu_image.env | QUICK, stand_in="cpu.lock")

    told = cpu_image.as_user("id --user && stat --format=%U /app/moa && ! cat /etc/sudoers")
    assert told.stdout.split() == [str(USER[0]), "ray"]
    assert told.returncode == 0


@pytest.mark.slow
def test_the_registry_has_a_file_with_a_locked_hash_of_each_gpu_package(tmp_path: Path) -> None:
    need_registry()
    lock = CONTAINERS / "gpu.lock"
    dry = [str(UV), "--no-config", "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    target = ["--target", str(tmp_path), "--python-version", "3.11"]

    found = subprocess.run(
        [*dry, *target, "--requirement", str(lock)], capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stderr
    assert f"Would install {len(pins(lock))} packages" in found.stderr


def _lint(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "style", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _build(image: str, roots: Path) -> Built:
    """Run all steps of a Dockerfile, each stage in a root of its own."""
    parsed = dockerfile.read(image)
    env = {"PATH": BASE_PATH, "HOME": HOME, "LANG": "C.UTF-8"}
    made: dict[str, ScratchRoot] = {}
    for name, steps in dockerfile.stages(parsed).items():
        root = made[name] = ScratchRoot(roots / (name or "image"))
        if not name:
            _succeed(root.run(BASE_IMAGE, env=env))
            venv = f"{sys.base_prefix}/bin/python3 -m venv {HOME}/anaconda3"
            _succeed(root.run(venv, user=USER, env=env))
        _run_steps(root, steps, made, env | QUICK)
    return Built(made[""], env | parsed.envs)


def _run_steps(
    root: ScratchRoot,
    steps: list[dockerfile.Step],
    made: dict[str, ScratchRoot],
    env: dict[str, str],
    stand_in: str | None = None,
) -> None:
    """With `stand_in`, that lock is installed for the GPU's."""
    user, folder = (0, 0), "/"
    for step in steps:
        match step.instruction:
            case "USER":
                user = USER if step.value == str(USER[0]) else (0, 0)
            case "WORKDIR":
                folder = step.value
            case "COPY":
                _copy(root, dockerfile.copy_of(step.value), folder, made)
            case "RUN":
                command = step.value
                if stand_in and "gpu.lock" in command:
                    root.copy(CONTAINERS / stand_in, f"{folder}/gpu.lock", USER)
                _succeed(root.run(command, user=user, folder=folder, env=env))


def _copy(
    root: ScratchRoot, copy: dockerfile.Copy, folder: str, made: dict[str, ScratchRoot]
) -> None:
    if copy.stage is not None:
        (source,) = copy.sources
        root.copy(made[copy.stage].path(source), copy.target, copy.owner)
        return
    for source in copy.sources:
        for name in dockerfile.files_of(source):
            inside = name if (ROOT / source).is_dir() else Path(name).name
            root.copy(ROOT / name, f"{folder}/{inside}", copy.owner)


def _succeed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
