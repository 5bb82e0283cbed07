"""Forbidden words of CONTRIBUTING.md do not come back into messages, docstrings, comments and documents."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = (
    "whoever", "what lasts", "(?:while|as long as) (?:it|this|that) lasts", "(?:is|are|was|were|be) told",
    "(?:told|tells|telling) of", "takes? (?:nobody|no more|nothing)", "no live assets",
    "(?:left|leaves?|leaving) (?:alone|in peace)", "gets? through", "hangs on", "(?:has|have) not got",
    "heals?", "(?:mend|mends|mended|mending)", "put right", "takes? (?:its|their|the) place of", "beside",
    "anew", "meanwhile", "all the same", "as ever", "gravest", "(?:goes|gone|going|went) on with",
    "(?:is|are|was) (?:asked|looked) for", "(?<![Tt]here )(?:is|are|was) no (?:error|failure|success)",
    "what is (?:snoozed|owed)", "can(?:not)? be had", "lies? (?:in|beside|below|next)", "in no case",
    "(?:hand|hands|handed) (?:over|out)", "somebody else's transaction", "in clear", r"at A\d+",
    "in (?:the )?place of",
)  # fmt: skip
PATTERN = re.compile(rf"\b(?:{'|'.join(FORBIDDEN)})\b")
PLACES = ("README.md", "RUN_ORCHESTRATOR.md", ".env.example", "MARKDOWN_DOCS", "scripts", "database")
KINDS = (".py", ".j2", ".sql", ".md", ".sh", ".yml", ".conf", ".service", ".js", ".css", "")


def texts() -> list[Path]:
    """The files in which people read. A released migration never changes."""
    found = [path for place in PLACES for path in ([ROOT / place, *(ROOT / place).rglob("*")])]
    return [
        path.relative_to(ROOT)
        for path in sorted(found)
        if path.is_file() and path.suffix in KINDS and not re.match(r"0[0-2]\d_", path.name)
    ]


def words_of(path: Path) -> list[tuple[int, str]]:
    """(line, text): of a script its strings and comments, because names of code may be anything."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return list(enumerate(source.splitlines(), 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    shown = (tokenize.STRING, tokenize.COMMENT)
    return [
        (token.start[0] + number, line)
        for token in tokens
        if token.type in shown
        for number, line in enumerate(token.string.splitlines())
    ]


def test_words__that_are_forbidden_do_not_come_back() -> None:
    found = [
        f"{path}:{line}: {match[0]}"
        for path in texts()
        for line, text in words_of(ROOT / path)
        for match in PATTERN.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["the run is told to stop", "it heals by itself", "mended anew", "it is at A2"]
)
def test_words__are_found(text: str) -> None:
    assert PATTERN.search(text)
