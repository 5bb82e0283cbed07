"""How a script's failure is told, and the exit code it makes."""

from __future__ import annotations

import logging

import pytest

from shared.base.errors import ConfigError, DamError, DbError, ExitCode
from shared.base.script import exit_code_of


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        pytest.param(ConfigError(["A: missing", "B: wrong"]), 2, ["A: missing", "B: wrong"], id="settings"),
        pytest.param(DbError("away", kind="out_of_reach", retryable=True), 75, ["away"], id="heals"),
        pytest.param(DamError("no", kind="forbidden", hint="ask"), 2, ["no (ask)"], id="somebody must act"),
        pytest.param(ZeroDivisionError("x"), 3, ["a bug ended the run"], id="bug"),
    ],
)
def test_exit_code__of_what_is_raised(
    caplog: pytest.LogCaptureFixture, raised: Exception, code: int, told: list[str]
) -> None:
    def work() -> int:
        raise raised

    assert exit_code_of(work) == code
    assert [record.getMessage() for record in caplog.records] == told
    has_traceback = [record.exc_info is not None for record in caplog.records]
    assert has_traceback == [code == ExitCode.BUG] * len(told)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_exit_code__of_work_that_ends() -> None:
    assert exit_code_of(lambda: 1) == 1


def test_exit_code__leaves_ctrl_c_alone() -> None:
    def work() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exit_code_of(work)
