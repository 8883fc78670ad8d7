"""`xmae submit`: what travels, what is refused, and a real job followed to its end, left and found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmae_dist.cli.main import main
from xmae_dist.cluster.package import pack
from xmae_dist.core.errors import UsageError
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster

PROJECT = Path(__file__).resolve().parents[2]


def test_only_the_source_and_named_files_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / ".env").write_text("KEY=secret-of-this-folder")
    (here / "map.toml").write_text('layout = "columns"')
    monkeypatch.chdir(here)
    package = pack(["ingest", "s3://b/raw", "--mapping", "map.toml", "--labels=map.toml"], tmp_path / "package")
    assert package.words == ("ingest", "s3://b/raw", "--mapping", "inputs/3-map.toml", "--labels=inputs/4-map.toml")
    assert (package.folder / "inputs/3-map.toml").read_text() == 'layout = "columns"'
    assert {path.name for path in package.folder.iterdir()} == {"xmae_dist", "inputs"}
    assert (package.folder / "xmae_dist/evaluate/suites").is_dir() and package.size_bytes < 5 * 2**20
    assert not any(b"secret-of-this-folder" in p.read_bytes() for p in package.folder.rglob("*") if p.is_file())


def test_what_must_not_travel_stays(tmp_path: Path) -> None:
    code = (
        "import sys; from ray._private.runtime_env.packaging import create_package, get_uri_for_directory;"
        "from ray._private.ray_constants import get_runtime_env_default_excludes as ex;"
        "from pathlib import Path; create_package(sys.argv[1], Path(sys.argv[2]),"
        " include_gitignore=True, excludes=ex())"
    )
    package = tmp_path / "job.zip"
    secret = PROJECT / ".env.test-of-rayignore"
    secret.write_text("KEY=1")
    try:
        subprocess.run([sys.executable, "-c", code, str(PROJECT), str(package)], check=True, capture_output=True)
    finally:
        secret.unlink()
    names = zipfile.ZipFile(package).namelist()
    tops = {name.split("/")[0] for name in names}
    ours = {str(path.relative_to(PROJECT)) for top in ("xmae_dist", "jobs") for path in (PROJECT / top).rglob("*.py")}
    assert ours | {"pyproject.toml"} <= set(names), sorted(ours - set(names))[:5]
    assert not tops & {".git", ".venv", "tests", "demo-out", secret.name}, json.dumps(sorted(tops))
    assert package.stat().st_size < 4 * 2**20


def test_a_folder_of_this_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder of this machine"):
        pack(["inspect", str(tmp_path)], tmp_path / "package")


def test_a_name_is_not_taken_for_a_file_that_is_called_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "icu").mkdir()
    (tmp_path / "ring").write_text("a file")
    monkeypatch.chdir(tmp_path)
    words = ("ingest", "s3://b/raw", "--cohort", "icu", "--device=ring")
    assert pack(words, tmp_path / "package").words == words


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "labels.csv", "wb") as file:
        file.truncate(11 * 2**20)
    with pytest.raises(UsageError, match="11 MiB"):
        pack(["ingest", "--labels", str(tmp_path / "labels.csv")], tmp_path / "package")


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--name", "x"]) == 2
    assert "expected a command" in capsys.readouterr().err


def test_no_job_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--address", "http://127.0.0.1:9", "verify", "s3://b/c"]) == 1
    said = capsys.readouterr().err
    assert "job server of http://127.0.0.1:9" in said and "Traceback" not in said


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with local_cluster(raylets=1, num_cpus=2, environment={"PATH": path}) as running:
        yield running


def started(cluster: LocalCluster, *words: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **cluster.environment(), "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-m", "xmae_dist.cli", "submit", *words],
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_job_is_followed_and_its_status_is_ours(cluster: LocalCluster, tmp_path: Path) -> None:
    corpus = f"file://{tmp_path}/corpus"
    made = started(cluster, "simulate", "bedside", "--corpus", corpus, "--hours", "0.02", cwd=tmp_path)
    out, err = made.communicate(timeout=300)
    assert made.returncode == 0, out + err
    assert "MiB, to http://127.0.0.1" in err and "xmae submit --address" in err
    checked = started(cluster, "--name", "check", "verify", corpus, "--json", cwd=tmp_path)
    out, err = checked.communicate(timeout=300)
    assert checked.returncode == 0 and '"fingerprint"' in out

    failed = started(cluster, "--name", "bad", "verify", f"file://{tmp_path}/missing", cwd=tmp_path)
    out, err = failed.communicate(timeout=300)
    assert failed.returncode == 2, out + err  # what `xmae verify` ends with
    assert "no corpus there" in out

    again = started(cluster, "--name", "bad", "verify", corpus, cwd=tmp_path)
    assert again.wait(300) == 2 and "--name: got bad" in again.stderr.read()  # type: ignore[union-attr]
    found = started(cluster, "--attach", "bad", cwd=tmp_path)
    out, _ = found.communicate(timeout=300)
    assert found.returncode == 2 and "no corpus there" in out
    assert started(cluster, "--attach", "nobody", cwd=tmp_path).wait(300) == 2


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running(cluster: LocalCluster, tmp_path: Path) -> None:
    corpus = f"file://{tmp_path}/corpus"
    left = started(cluster, "--name", "left", "simulate", "bedside", "--corpus", corpus, "--hours", "200", cwd=tmp_path)
    deadline = time.monotonic() + 200
    said = ""
    while "all jobs" not in said and time.monotonic() < deadline:
        said += left.stderr.readline()  # type: ignore[union-attr]
    time.sleep(1.0)
    os.killpg(left.pid, signal.SIGINT)
    _, err = left.communicate(timeout=60)
    assert left.returncode != 0 and "job left goes on" in err
    found = started(cluster, "--attach", "left", cwd=tmp_path)
    found.communicate(timeout=600)
    assert found.returncode == 0
