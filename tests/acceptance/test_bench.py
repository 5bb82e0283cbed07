"""The bench's own parts, small and without nginx, rclone and clocks: what it measures must stay true."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import fleet
from bench.box_sink import Behaviour
from bench.cases import all_cases
from bench.contenders import Task, check_arrival, run_contender
from bench.dam_front import PlainFront
from bench.openssl import OpenSsl, current_openssl, own_version
from bench.report import BEGIN, END, merge, put_into, record, summarise, to_markdown
from bench.sets import KB, MB, NOTHING, FileSet
from bench.stage import Cost, Stage, WrongResultError
from bench.tls import CIPHER, make_certificates
from fleet import add_engine
from simulators.postgres import PostgresServer
from world import SCRIPTS

FILES = FileSet("tiny", ((1, 24 * MB), (3, 20 * KB)))
LARGE = FileSet("one", ((1, 24 * MB),))


@pytest.fixture
def stage(tmp_path: Path, database_url: str) -> Iterator[Stage]:
    """The bench's systems, the DAM by the simulator alone."""
    uploader = SCRIPTS / "a1_to_a2_box_uploader.py"
    certificates = make_certificates(tmp_path)
    with (
        PlainFront(tmp_path) as front,
        Stage(tmp_path, front, certificates, uploader, lambda: database_url) as opened,
    ):
        yield opened


@pytest.mark.parametrize(("name", "files"), [("ours", FILES), ("requests", FILES), ("sdk", LARGE)])
def test_contender__moves_every_byte(stage: Stage, name: str, files: FileSet) -> None:
    cost = run_contender(name, stage, Task(files, part_size=5 * MB))
    assert cost.cpu_s > 0
    assert sum(cost.box_calls.values()) >= files.count
    assert cost.box_calls.get("PUT files/upload_sessions/*", 0) in (0, 5)
    assert set(cost.box_statuses) <= {"200", "201"}


def test_workers__share_campaigns_and_wait_for_more(
    stage: Stage, postgres: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engine(postgres, database_url)
    cost = run_contender("workers", stage, Task(FILES, campaigns=3, engine_workers=2, part_size=5 * MB))
    assert cost.cpu_s > 0
    assert cost.box_calls["POST files/content"] == 3 * (3 + 1), (
        "each campaign has three small files and a receipt"
    )
    monkeypatch.setattr(fleet, "SETTLED_SECONDS", 0.1)
    monkeypatch.setattr(fleet, "IDLE_SECONDS", 0.5)
    idle = run_contender("idle workers", stage, Task(NOTHING, engine_workers=2))
    assert 1 <= idle.connections <= 10


def test_box_sink__chooses_the_cipher(stage: Stage) -> None:
    context = ssl.create_default_context(cafile=str(stage.certificates.ca))
    with (
        socket.create_connection(("127.0.0.1", stage.box.tls_port)) as plain,
        context.wrap_socket(plain, server_hostname="api.box.com") as connection,
    ):
        used = connection.cipher()
    assert used is not None
    assert used[0] == CIPHER
    assert used[0] != context.get_ciphers()[0]["name"]


def test_openssl__that_is_measured_beside_python_s_own_is_another_one(tmp_path: Path) -> None:
    found = current_openssl(tmp_path / "openssl")
    if ssl.OPENSSL_VERSION_INFO >= (3, 1):
        assert found is None, "a current one of its own is enough"
        return
    assert found is not None
    assert found.version.startswith("OpenSSL 3.")
    assert found.version != own_version()
    plain = next(case for case in all_cases() if case.key == "big-tls-40ms")
    both = next(case for case in all_cases(other_openssl=found.version) if case.key == plain.key)
    label = f"ours, {found.version}"
    assert [entry.label for entry in both.entries] == ["ours", label, "rclone", "bare loop"]
    costs = {entry.label: [Cost(10, 10, 100)] for entry in both.entries} | {label: [Cost(5, 5, 50)]}
    values = [bar.measure(costs) for bar in both.bars]
    assert values == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_contender__gets_the_other_openssl_where_its_task_says_so(stage: Stage) -> None:
    stage.current_openssl = OpenSsl("any", {"TRANSFER_WORKERS": "told by its variables"})
    run_contender("ours", stage, Task(FILES))
    with pytest.raises(WrongResultError, match="told by its variables"):
        run_contender("ours", stage, Task(FILES, has_current_openssl=True))


def test_contender__a_wrong_byte_or_a_missing_file_is_told(stage: Stage) -> None:
    _, sources, _ = stage.prepare(FILES)
    run_contender("requests", stage, Task(FILES))
    check_arrival(stage, sources)
    with pytest.raises(WrongResultError, match=r"1 of 4 .* file-00002"):
        check_arrival(
            stage, [replace(source, sha1="0") if "2" in source.path.name else source for source in sources]
        )
    with pytest.raises(WrongResultError, match="1 of 3"):
        check_arrival(stage, sources[:3])


def test_contender__a_byte_that_is_not_the_original_s_in_a_part_is_told(stage: Stage) -> None:
    _, (source,), _ = stage.prepare(LARGE)
    with source.path.open("r+b") as file:  # what the DAM has is a copy
        file.seek(17 * MB)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(WrongResultError, match="not_the_original"):
        run_contender("ours", stage, Task(LARGE, part_size=5 * MB))


def test_contender__a_failure_is_told_and_429_is_one(stage: Stage) -> None:
    with pytest.raises(WrongResultError, match="429"):
        run_contender("requests", stage, Task(FILES, uploads_per_minute=2))
    assert stage.box.report()["statuses"] == {"201": 2, "429": 1}
    stage.box.reset(Behaviour())
    assert stage.box.report()["files"] == {}


def test_report__says_which_bars_are_met(tmp_path: Path) -> None:
    case = next(case for case in all_cases() if case.key == "session-0ms")
    costs = {"ours": [Cost(8, 9, 10**8)] * 3, "sdk": [Cost(10, 9, 10**8)] * 3}
    summary = summarise(case, costs)
    assert [(bar["value"], bar["met"]) for bar in summary["bars"]] == [(0.8, True), (1.0, False)]
    noisy = {label: [*quiet, Cost(99, 99, 1, foreign=0.5)] for label, quiet in costs.items()}
    assert summarise(case, noisy, 0.1)["bars"] == summary["bars"]
    machine = {"cores": 2, "processor": "Z80", "system": "CP/M", "python": "3.11", "tcp": "reno"}
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    document = record(machine=machine, versions={})
    document["cases"].append(summary)
    (merged,) = merge([document, document])
    put_into(page, to_markdown(merged))
    text = page.read_text(encoding="utf-8")
    assert "| 1 GB upload session, 0 ms | CPU ÷ Box SDK | 1.00 (1.00–1.00) | ≤ 0.95 | **not met** |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
