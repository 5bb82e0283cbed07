"""Every text that the DAM can send, pushed through everything that handles text: nothing is executed, no
header or log line forged, no other campaign touched, and nothing lost."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import a1_retry
from hostile import ATTACKS
from shared.base.commands import Commands
from shared.base.errors import DamError
from shared.base.logs import configure_logging
from shared.base.values import Asset, Attempt, BoxFile, Campaign, DamFolder, DeliveryResult, Notice
from shared.box.refusals import safe_id, storable
from shared.dam.answers import asset_of, clean_text, field_code, is_safe_id, items_of, size_of
from shared.database import Database
from shared.http.guards import json_object
from shared.notices.delivery import deliver_due_notices
from shared.notices.outbox import Outbox
from shared.notices.wording import reset_sql
from shared.notifier import Composer, build_message
from shared.rules.names import MAX_UNITS, legal_name, name_key, plan_names, strict_name
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.standing import Standing
from simulators.postgres import PostgresServer

NOW = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
HEX_ID = "5f3c9a1e7b2d4c6f8a0b1c2d3e4f5a6b7c8d9e0f"
pieces = st.sampled_from(
    [*"\r\n\0\t\x0b\x1b\x7f\x85\u2028\u2029\u202e\ufeff\ud800<>&\"'\\/:;=?-$`%{}|*.", *ATTACKS]
)
hostile = st.one_of(
    st.sampled_from(ATTACKS), st.lists(st.one_of(st.characters(), pieces), max_size=40).map("".join)
)
calmly = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(inner, st.lists(inner, max_size=4), st.dictionaries(hostile, inner, max_size=4))


class KeptMail:
    """A mail server that takes everything, as the bytes that would go out."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def connect(self) -> None:
        """Always ready."""

    def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult:
        before_handover()
        self.messages.append(build_message(notice, "x@example.com").as_bytes())
        return DeliveryResult(accepted=notice.recipients)


json_values = nested(nested(scalars))
FOLDER = DamFolder("f", "Master Assets", None)
COMMANDS = Commands("python", "scripts")
COMPOSER = Composer(
    timezone=ZoneInfo("Europe/Rome"),
    max_attempts=3,
    folder_name="Master Assets",
    commands=COMMANDS,
    error_recipients=("a@example.com",),
    success_recipients=(),
)


def is_storable(text: str) -> bool:
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


# What comes in


@calmly
@given(text=hostile)
def test_clean_text__is_storable_and_loses_nothing_that_people_write(text: str) -> None:
    cleaned = clean_text(text)
    assert is_storable(cleaned)
    assert len(cleaned) <= 2000
    assert clean_text(cleaned) == cleaned
    if is_storable(text) and len(text) <= 2000:
        assert cleaned == text.strip()


@calmly
@given(item=st.dictionaries(st.sampled_from(
    ["asset_id", "name", "version", "date_last_updated", "content_size", "master_content_info", "metadata",
     "mime_type", "deleted", "content_state", "data_type"]
), json_values))  # fmt: skip
@example({"content_size": "9" * 5000})
@example({"content_size": 2**63})
@example({"content_size": "٣", "version": {"a": ["\0"]}})
@example({"content_size": 1, "version": "x" * 10_000, "date_last_updated": "\ud800"})
def test_items__of_any_shape_become_assets_or_a_dam_error(item: dict[str, Any]) -> None:
    size = size_of(item)
    assert size is None or 0 <= size < 2**63
    status = field_code(item, "STATUS")
    assert status is None or (is_storable(status) and len(status) <= 200)
    try:
        (found,) = items_of([item], "listing")
        asset = asset_of(found, FOLDER)
    except DamError:
        return
    assert is_safe_id(asset.id)
    assert is_storable(asset.name + asset.revision)
    assert len(asset.revision) < 300
    legal_name(asset.name)


@calmly
@given(text=hostile)
def test_ids__that_are_safe_are_one_step_of_a_path_and_one_word(text: str) -> None:
    for is_safe in (is_safe_id, lambda value: safe_id(value) is not None):
        if is_safe(text):
            assert re.fullmatch(r"[A-Za-z0-9._-]+", text)
            assert text not in (".", "..")


@calmly
@given(content=st.one_of(st.binary(max_size=200), json_values.map(lambda value: json.dumps(value).encode())))
def test_json__of_any_kind_is_an_object_or_none(content: bytes) -> None:
    found = json_object(content)
    assert found is None or isinstance(found, dict)


# Box


@calmly
@given(names=st.lists(hostile, min_size=1, max_size=8))
def test_box_names__are_legal_unique_and_stable(names: list[str]) -> None:
    items = [(f"{number:040x}", clean_text(name)) for number, name in enumerate(names, start=2**150)]
    planned = plan_names(items, {})
    assert len({name_key(name) for name in planned.values()}) == len(items)
    for item_id, name in items:
        for box_name in (planned[item_id], strict_name(name, item_id)):
            assert 1 <= len(box_name.encode("utf-16-le")) // 2 <= MAX_UNITS
            assert not re.search(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]", box_name)
            assert box_name == box_name.strip()
            assert box_name.strip(".")
            assert json.loads(json.dumps(box_name)) == box_name
    assert plan_names(items, {}) == planned


def test_box_names__of_a_million_letters_cost_no_time() -> None:
    """Cutting one letter at a time off a long name took the square of its length: hours."""
    assert len(legal_name("x" * 1_000_000 + ".jpg")) == MAX_UNITS
    assert len(strict_name("🎄" * 1_000_000, HEX_ID)) <= MAX_UNITS


@calmly
@given(text=hostile)
def test_box_text__is_storable(text: str) -> None:
    assert is_storable(storable(text))


# SQL


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url, 3) as opened:
        yield opened


@calmly
@given(name=hostile, number=hostile, status=hostile, message=hostile, asset_name=hostile)
def test_database__keeps_every_text_as_it_is(
    database: Database, name: str, number: str, status: str, message: str, asset_name: str
) -> None:
    fields = [{"id": "STATUS", "value": {"value": {"value": status}}}]
    code = field_code({"metadata": {"metadata_element_list": fields}}, "STATUS")
    campaign = Campaign(HEX_ID, clean_text(number), clean_text(name), code)
    database.execute("DELETE FROM campaign_status")
    Standing(database).record_in_a1(campaign)
    database.increment_a1_retry(
        campaign.id, campaign.number, campaign.name, clean_text(message), status=code or ""
    )
    LastingErrors(database).note(campaign.id, "DAM/refused", clean_text(message))
    Standing(database).follow_status(campaign.id, code)
    asset = Asset("a", clean_text(asset_name), FOLDER, 1, "1/x/1")
    Ledger(database).record_upload(campaign.id, asset, BoxFile("1", storable(asset_name), 1, "0" * 40), "run")
    last = Attempt(3, counted=True, permanently_failed=True)
    notice = COMPOSER.permanent(campaign, last, reason=message, now=NOW)
    with database.transaction():
        Outbox(database).queue(notice)
    row = database.row("SELECT campaign_number, campaign_name, status FROM campaign_status")
    assert row == (campaign.number, campaign.name, code)
    assert database.row("SELECT message FROM campaign_errors")[0] == clean_text(message)
    assert database.row("SELECT asset_name FROM campaign_assets")[0] == asset.name
    kept = KeptMail()
    deliver_due_notices(database, nullcontext(kept), NOW, ZoneInfo("UTC"), COMMANDS)
    assert len(kept.messages) == 1
    database.execute("DELETE FROM notices")


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(ids=st.lists(hostile, min_size=10, max_size=25, unique=True), is_standard=st.booleans())
@example(ids=ATTACKS, is_standard=True)
@example(ids=ATTACKS, is_standard=False)
def test_shown_sql__resets_exactly_that_campaign_or_nothing(
    database: Database,
    postgres: PostgresServer,
    database_url: str,
    tmp_path: Path,
    ids: list[str],
    is_standard: bool,
) -> None:
    """Pasted into psql, on a table where everybody else is permanently failed too."""
    known = [one for one in ids if is_storable(one)]
    others = ["other", HEX_ID, "campaign_id", *(one + "x" for one in known)]
    everybody = sorted({*known, *others})
    database.execute("DELETE FROM campaign_status")
    database.execute(
        "INSERT INTO campaign_status (campaign_id, a1_permanently_failed, a1_retry_count)"
        " SELECT id, TRUE, 3 FROM unnest(%(ids)s) AS id",
        {"ids": everybody},
    )
    script = tmp_path / "pasted.sql"
    head = f"SET standard_conforming_strings = {'on' if is_standard else 'off'};\n"
    asked = [one for one in ids if one not in others]
    lines = [reset_sql(one) for one in asked]
    assert all(line.isprintable() for line in lines)
    script.write_text(head + "\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    postgres.psql(
        "-v",
        "ON_ERROR_STOP=0",
        "-v",
        "campaign_id=other",
        "-f",
        script,
        database=database_url.rsplit("/", 1)[1],
    )
    reset = database.rows("SELECT campaign_id FROM campaign_status WHERE NOT a1_permanently_failed")
    assert {row[0] for row in reset} == {one for one in asked if is_storable(one)}
    assert database.row("SELECT count(*) FROM campaign_status")[0] == len(everybody)
    assert not Path("canary").exists()


# The shell


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with a `python` that only writes down what it was given."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> "$TOLD"\n', encoding="utf-8")
    python.chmod(0o755)
    return tmp_path


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(campaign_id=hostile.filter(bool))
@example("$(touch canary)`touch canary`;touch canary&&touch canary|touch canary")
@example("--by")
@example("-")
@example("--all-failed")
@example("\n touch canary\n")
def test_shown_command__gives_python_that_id_and_nothing_else(stub: Path, campaign_id: str) -> None:
    """In bash and in sh; what sh cannot spell names no campaign there, and runs nothing either."""
    command = COMMANDS.reset(campaign_id)
    assert command.isprintable()
    assert command.count("\n") == 0
    for shell in ("bash", "sh"):
        told, home = stub / "told", stub / "home"
        told.unlink(missing_ok=True)
        home.mkdir(exist_ok=True)
        subprocess.run(
            [f"/bin/{shell}", "-c", command.encode("utf-8", "surrogatepass")],
            cwd=home, env={"PATH": f"{stub / 'bin'}:{os.defpath}", "TOLD": str(told)}, check=True,
        )  # fmt: skip
        words = [word.decode("utf-8", "surrogatepass") for word in told.read_bytes().split(b"\0")[:-1]]
        assert words[:2] == ["scripts/a1_retry.py", "reset"]
        assert list(home.iterdir()) == []
        named = a1_retry.parse_arguments(words[1:]).campaign_ids
        assert len(named) == 1
        if is_storable(campaign_id) and (shell == "bash" or campaign_id.isprintable()):
            assert named == [campaign_id]
        else:
            assert named[0] not in (HEX_ID, "other", campaign_id.split("\0")[0])


# The log


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Where the log of this process goes for one test; the root logger is put back afterwards."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@calmly
@given(text=hostile)
def test_log__has_one_line_an_event_whatever_it_tells(log: io.StringIO, text: str) -> None:
    for log_format in ("text", "json"):
        log.seek(0)
        log.truncate()
        configure_logging(log_format, "INFO", run_id="r", secrets=("s3cret-word",))  # type: ignore[arg-type]
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(log)
        logger = logging.getLogger("uploader")
        logger.warning(
            "campaign %s failed: %s", text, f"{text} s3cret-word", extra={"action": "x", "kind": text}
        )
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("a bug")
        lines = log.getvalue().splitlines()
        assert "s3cret-word" not in log.getvalue()
        if log_format == "json":
            first, second = (json.loads(line) for line in lines)
            assert first["message"] == f"campaign {text} failed: {text} ***"
            assert (first["level"], first["kind"], first["run_id"]) == ("WARNING", text, "r")
            assert text in second["traceback"] or not is_storable(text)
        else:
            events = [line for line in lines if not line.startswith("  | ")]
            assert len(events) == 2
            assert all(" run=r uploader: " in line for line in events)
