"""The demo, as a newcomer runs it: the story, what it leaves, and that it leaves nothing running."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = 100
KEY_LINES = (
    "ACT 1, TEMPORARY",
    "run 1     C-1001: the folder is empty, attempt 1 of 3",
    "inbox     ⚠️ No Assets Found (Attempt 1/3) - Campaign Spring Launch",
    "run 2     C-1001: 12 files, 60.0 MB, copied to Box and checked; set to A2",
    "inbox     ✅ Uploaded to Box - Campaign Spring Launch (12 assets)",
    "row       C-1001: status = A2, a1_retry_count = 0, a1_permanently_failed = FALSE",
    "ACT 2, PERSISTENT",
    "inbox     ❌ PERMANENTLY FAILED - Campaign Café Crème & Friends (No Assets After 3 Attempts)",
    "row       C-2002: status = A1, a1_retry_count = 3, a1_permanently_failed = TRUE",
    "inbox     ✅ Solved - Campaign Café Crème & Friends (",
    "run 8     C-2001: permanently failed, skipped",
    "scripts/a1_retry.py",
    "C-2002: there is no folder, attempt 1 of 3",
    "ACT 3, WRONG STATUS",
    "row       C-3001: status = A0, a1_retry_count = 1, a1_permanently_failed = FALSE",
    "ACT 4, THE ORCHESTRATOR",
    "Fri 22:30 to Mon 04:30  a1_to_a2      55 runs, every 60 minutes, off-hours",
    "a1_to_a2 done in ",
    "inbox     📊 Daily Report - ",
    "ACT 5, PEOPLE",
    "snoozed, since ",
    "inbox     🗓️ Stuck Campaigns - 1",
    "ACT 6, THE OPERATOR'S PAGE",
    "page      Reset: 1 campaign. By support, ",
    "page      6 pictures of it are in",
    "✓         From the e-mail to the next run: a link, a log-in and one button.",
    "e-mails   24: 10 retry notices, 3 permanent failures, 6 successes, 3 solved, 1 daily report,",
    "files     22, 60.0 MB, in Box with the SHA-1 of their source",
)
MARKED = {name: "marked-secret" for name in ("DAM_PASSWORD", "DAM_CLIENT_SECRET", "BOX_CLIENT_SECRET")}
"""Real secrets, should the demo be played where there are any; nothing of them may be left behind."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """TMPDIR for the demo: whatever runs for it has this path in its name, and must be gone afterwards."""
    # Not tmp_path: that is closed to other users, and as root PostgreSQL runs as one of them.
    folder = Path(tempfile.mkdtemp(prefix="demo-test-"))
    folder.chmod(0o711)
    yield folder
    left = processes_of(folder)
    shutil.rmtree(folder)
    assert left == []


@contextmanager
def started(*arguments: object, temporary: Path, root: Path = REPOSITORY) -> Iterator[subprocess.Popen[str]]:
    """The demo, as a process; killed if it still runs at the end."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, root / "scripts" / "demo.py", "--port", "0", *map(str, arguments)],
        cwd=root,
        env={**kept, **MARKED, "LANG": "C.UTF-8", "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that work in the folder, or were started for it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            told += os.fsencode((process / "cwd").readlink())
        except OSError:
            continue
        if os.fsencode(folder) in told:
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def story_up_to(process: subprocess.Popen[str], start: str) -> str:
    """Read the story up to a line that begins so."""
    assert process.stdout is not None
    story = ""
    for line in process.stdout:
        story += line
        if line.lstrip().startswith(start):
            return story
    pytest.fail(f"the story ended without {start!r}")


@pytest.mark.timeout(300)
def test_demo__plays_the_story_and_stays_up_until_ctrl_c(tmp_path: Path, temporary: Path) -> None:
    output = tmp_path / "out"
    with started("--keep", "--output", output, temporary=temporary) as process:
        told = story_up_to(process, "EVERYTHING STAYS UP")
        story = told + story_up_to(process, "demo.env, psql.conf")
        time.sleep(1)
        assert process.poll() is None
        for secret in ("demo.env", "psql.conf", "curl.conf"):
            assert (output / secret).stat().st_mode & 0o777 == 0o600
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    story += rest
    assert (process.returncode, errors) == (0, ""), story
    for line in KEY_LINES:
        assert line in story
    assert "\x1b" not in story
    assert max(map(len, told.splitlines())) <= COLUMNS
    assert "✗" not in story
    assert "marked-secret" not in story
    left = [path for path in output.rglob("*") if path.is_file()]
    assert [path for path in left if b"marked-secret" in path.read_bytes()] == []

    stems = {path.stem for path in (output / "mails").iterdir()}
    assert stems == {f"{number:04d}" for number in range(1, 25)}
    assert len(list((output / "mails").iterdir())) == 3 * 24
    assert "UPDATE campaign_status" in (output / "mails" / "0007.txt").read_text(encoding="utf-8")
    spring = output / "box" / "Agency" / "C-1001 - Spring Launch"
    assert (spring / "Film" / "Masters" / "TV spot 30s master.mxf").stat().st_size == 60_000_000
    assert (spring / "Asia" / "春のキャンペーン.jpg").read_bytes().startswith(b"\xff\xd8")
    assert (spring / "to be delivered.txt").stat().st_size == 0
    assert len([path for path in spring.iterdir() if path.name.lower().startswith("logo")]) == 2
    assert len(list((output / "runs").glob("*.log"))) == 23  # 21 of the uploader, --once, page
    rows = (output / "database" / "campaign_status.txt").read_text(encoding="utf-8")
    assert "permanently_failed" in rows
    assert re.search(r"C-3001 +\| Autumn Outlet +\| A0 +\| +1 \| f", rows)
    check_page(output)

    assert sorted(path.name for path in output.iterdir()) == [
        ".made-by-the-demo", "box", "database", "index.html", "mails", "page", "runs",
    ]  # fmt: skip
    assert list(temporary.iterdir()) == []


def check_page(output: Path) -> None:
    """It loads nothing from anywhere, hostile names are text in it, links lead to files, acts fold."""
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "Everything happened as promised." in page
    assert "Brief &lt;b&gt;draft" in page
    assert "<b>draft" not in page
    assert "Winter &lt;Magic&gt; 冬" in page
    assert page.count('<iframe sandbox=""') == 24
    assert "<script" not in page
    outside = re.sub(r'srcdoc="[^"]*"', "", page)
    assert not re.search(r"(src|href)=\"?(https?:)?//", outside)
    links = [unquote(unescape(link)) for link in re.findall(r'href="([^"]*)"', outside)]
    ids = set(re.findall(r'id="([^"]*)"', outside))
    assert [link for link in links if link[1:] not in ids and not (output / link).is_file()] == []
    story = page[page.index('id="story"') : page.index('id="mails"')]
    told = re.findall(
        r'<li class="k-inbox"><span class="label">Inbox</span> (<a href="(mails/\d+)\.html">)?', story
    )
    assert [link for _, link in told[1:]] == [f"mails/{number:04d}" for number in range(1, 25)]
    assert len(re.findall(r'<details class="act"><summary><h3>[A-Z]', story)) == 7
    assert "a1_to_a2      55 runs" in story, "what --explain answered"
    assert "ATTEMPTS ON HOLD: snoozed, since" in story, "what a1_retry.py explain answered"


@pytest.mark.timeout(300)
def test_simulators__by_the_command_and_the_block_of_the_document(tmp_path: Path, temporary: Path) -> None:
    """One command brings all systems up; what the document and the demo print to try really works."""
    root = tmp_path / "copy"
    for name in ("scripts", "database"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".venv").symlink_to(sys.prefix)
    document = (REPOSITORY / "MARKDOWN_DOCS" / "DEMO.md").read_text(encoding="utf-8")
    start, block = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    made = subprocess.run(
        [*shlex.split(start), "--dry-run"], cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True
    )
    *_, (script, option) = re.findall(r"(scripts/demo\.py) (\S+)", made.stdout)
    assert script == "scripts/demo.py"
    with started(option, temporary=temporary, root=root) as process:
        assert "ACT" not in story_up_to(process, "EVERYTHING STAYS UP")
        printed = story_up_to(process, "demo.env, psql.conf")
        commands = {
            what: command for what, command in re.findall(r"^  (\S.*):\n    (.*)$", printed, re.MULTILINE)
        }
        addresses = dict(
            zip(
                ("DAM", "BOX"),
                re.findall(r"(\S+)/_sim/faults", commands["switch all faults off"]),
                strict=True,
            )
        )

        def bash(text: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["bash", "-ec", text], cwd=root, env={**os.environ, **addresses}, stdin=subprocess.DEVNULL,
                capture_output=True, encoding="utf-8", timeout=60, check=False,
            )  # fmt: skip

        done = bash(block)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "(C-9 My own): empty, attempt 1 of 3" in done.stderr
        run = commands["run the uploader once"]
        for fault in (what for what in commands if what.startswith("switch a fault on")):
            assert bash(commands[fault]).returncode == 0
            failed = bash(run)
            assert (failed.returncode, "HTTP 403" in failed.stderr) == (4, True), failed.stderr
            assert bash(commands["switch all faults off"]).returncode == 0
        assert bash(commands["put a file into the campaign"]).returncode == 0
        uploaded = bash(run)
        assert (uploaded.returncode, "uploaded, 2 assets" in uploaded.stderr) == (0, True), uploaded.stderr
        assert "brief.txt" in bash(commands["see the files in Box"]).stdout
        others = [what for what in commands if what.startswith(("see", "reset", "ask"))]
        assert [what for what in others if bash(commands[what]).returncode] == []
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    left = {path.name for path in (root / "demo-output").iterdir()}
    assert left == {".made-by-the-demo", "box", "database", "mails", "runs"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_demo__ends_everything_when_stopped(tmp_path: Path, temporary: Path, number: signal.Signals) -> None:
    with started("--output", tmp_path / "out", temporary=temporary) as process:
        story_up_to(process, "run 1")
        assert processes_of(temporary), "PostgreSQL should be up by now"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"Stopped by {number.name}" in errors
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "out" / "demo.env").exists()


@pytest.mark.timeout(60)
def test_demo__fails_when_the_product_misbehaves(tmp_path: Path, temporary: Path) -> None:
    root = tmp_path / "copy"
    for name in ("scripts", "database"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    subject = (
        root / "scripts" / "shared" / "notices" / "templates" / "a1_to_a2_no_assets_retry.subject.txt.j2"
    )
    subject.write_text("Something else", encoding="utf-8")
    with started(temporary=temporary, root=root) as process:
        story, _ = process.communicate(timeout=50)
    assert process.returncode == 1, story
    assert "THE DEMO FAILED" in story
    assert "e-mails of run 1" in story
    assert "expected: ['⚠️ No Assets Found (Attempt 1/3) - Campaign Spring Launch']" in story
    assert "got:      ['Something else']" in story
    page = (root / "demo-output" / "index.html").read_text(encoding="utf-8")
    assert "The demo failed." in page
    assert list(temporary.iterdir()) == []


def test_demo__leaves_foreign_files_alone(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with started("--output", tmp_path, temporary=temporary) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "contains files that no demo made" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
