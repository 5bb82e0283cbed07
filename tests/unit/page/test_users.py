"""The file of the page's users, and the command that keeps it."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

import a1_retry
from page import CHEAP, PASSWORD
from shared.base.errors import ConfigError
from shared.page.users import Cost, UsersFile, line_of, parse, read_users

ANNA = line_of("anna", PASSWORD, CHEAP)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "page-users"


def put(file: Path, *lines: str) -> None:
    file.touch(0o600)
    file.write_text("\n".join(lines), encoding="utf-8")


def test_line__knows_its_password_and_shows_none() -> None:
    user = parse(f"# people\n\n{ANNA}\n", Path("f"))["anna"]
    assert user.has(PASSWORD)
    assert not user.has(PASSWORD + "x")
    assert line_of("anna", PASSWORD, CHEAP) != ANNA, "a salt of its own"
    assert user.hash.hex() not in repr(user)
    assert "hash" not in repr(user)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("anna", "expected name:scrypt"),
        (":x", "a name has 1 to 200 printable characters"),
        ("a\x1bb:x", "a name has 1 to 200 printable characters"),
        ("anna:topsecret", "the hash of anna is not one"),
        (ANNA.replace("$16384$", "$1024$"), "too easy to guess"),
        (ANNA.replace("$16384$", "$16383$"), "too easy to guess"),
        (ANNA.replace("$16384$", "$33554432$"), "too expensive"),
        (ANNA.replace("$8$", "$99$"), "too expensive"),
        (ANNA[:-8], "the hash of anna is not one"),
        (ANNA + "x", "the hash of anna is not one"),
        (f"{ANNA}\n{ANNA}", "anna appears twice"),
    ],
    ids=range(11),  # a hash has another salt in each process
)
def test_file__with_a_fault_names_the_line_and_no_hash(file: Path, line: str, fault: str) -> None:
    put(file, "# first", line)
    with pytest.raises(ConfigError, match=r"page-users: line [23]: ") as raised:
        read_users(file)
    assert fault in str(raised.value)
    for part in ("topsecret", ANNA.split("$")[-1][:10], ANNA.split("$")[-2][:10]):
        assert part not in str(raised.value)


def test_file__that_others_can_change_is_refused(file: Path) -> None:
    put(file, ANNA)
    file.chmod(0o620)
    with pytest.raises(ConfigError, match=r"ADMIN_USERS_FILE: users other than its owner can change"):
        read_users(file)


def test_file__is_read_again_when_it_changed_and_only_then(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(file, ANNA)
    users = UsersFile(file)
    assert users.checked("anna", PASSWORD) is not None
    opened = []
    monkeypatch.setattr(
        "shared.page.users.open_guarded", lambda path: opened.append(path) or os.open(path, 0)
    )
    assert list(users.users()) == ["anna"]
    assert not opened
    put(file, ANNA, ANNA.replace("anna", "otto"))
    assert list(users.users()) == ["anna", "otto"]
    before = file.stat()
    file.write_text(ANNA.replace("anna", "ruth") + "\n" + ANNA.replace("anna", "otto"), encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list(users.users()) == ["ruth", "otto"], "of the same size and time"


def test_unknown_name__takes_the_computation_of_a_known_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(file, ANNA)
    computed = []
    hashed = Cost.hashed
    monkeypatch.setattr(Cost, "hashed", lambda cost, *given: computed.append(cost) or hashed(cost, *given))
    users = UsersFile(file)
    for name in ("anna", "nobody", ""):
        assert users.checked(name, "wrong password") is None
    assert computed == [CHEAP] * 3


# a1_retry.py page-user


def command(
    monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str = "", typed: tuple[str, ...] = ()
) -> int:
    """Run the command; typed: what somebody types at a terminal in place of the pipe."""
    stream = io.StringIO(stdin)
    answers = iter(typed)
    monkeypatch.setattr(stream, "isatty", lambda: bool(typed))
    monkeypatch.setattr("sys.stdin", stream)
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    return a1_retry.main(["page-user", *words])


def test_page_user__adds_changes_and_removes(
    monkeypatch: pytest.MonkeyPatch, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--file", str(file))
    assert command(monkeypatch, "anna", *where, stdin=f"{PASSWORD}\nmore\n") == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = read_users(file)["anna"]
    assert first.has(PASSWORD)
    assert first.cost == Cost()
    file.write_text(f"# ours\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    assert command(monkeypatch, "otto", *where, typed=(PASSWORD, PASSWORD)) == 0
    assert command(monkeypatch, "anna", *where, stdin="another password") == 0
    users = read_users(file)
    assert users["anna"].has("another password")
    assert users["anna"].fingerprint != first.fingerprint
    monkeypatch.setenv("ADMIN_USERS_FILE", str(file))
    file.chmod(0o640)
    assert command(monkeypatch, "anna", "--remove") == 0
    assert list(read_users(file)) == ["otto"]
    assert file.read_text(encoding="utf-8").startswith("# ours\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert command(monkeypatch, "anna", "--remove") == 4
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no file of the way is left"
    assert PASSWORD not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (("anna",), {"stdin": "short\n"}, "a password has 12 to 1000 characters"),
        (("anna",), {"stdin": ""}, "a password has 12 to 1000 characters"),
        (("anna",), {"typed": (PASSWORD, "something else")}, "the two passwords differ"),
        (("a:b",), {"stdin": PASSWORD}, "a name has no colon"),
        (("a,b",), {"stdin": PASSWORD}, "a name has no colon and no comma"),
        ((" anna",), {"stdin": PASSWORD}, "no space at either end"),
    ],
)
def test_page_user__refuses_what_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, file: Path, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], given: dict[str, str], said: str,
) -> None:  # fmt: skip
    put(file, ANNA)
    assert command(monkeypatch, *words, "--file", str(file), **given) == 2  # type: ignore[arg-type]
    assert said in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == ANNA


def test_page_user__mends_no_faulty_file(
    monkeypatch: pytest.MonkeyPatch, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(file, "anna:secret")
    assert command(monkeypatch, "otto", "--file", str(file), stdin=PASSWORD) == 2
    assert "line 1" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "anna:secret"
    monkeypatch.chdir(file.parent)
    assert command(monkeypatch, "otto", "--file", str(file.parent / "no" / "f"), stdin=PASSWORD) == 2
    assert "cannot be written" in capsys.readouterr().err
