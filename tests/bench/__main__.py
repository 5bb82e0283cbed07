"""`make bench`: the uploader beside its peers, in turn, each result checked.

Exit codes: 0 measured, whether or not the bars are met; 1 with --strict when one is not; 2 when something is
missing; 4 when a contender's result was wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cases import LIMITED_COUNT, Case, Costs, all_cases
from bench.contenders import Task, rclone_binary, run_contender
from bench.dam_front import NginxFront
from bench.load import ready_memory, wait_for_quiet
from bench.network import enter_own_network
from bench.openssl import current_openssl
from bench.report import (
    Json,
    describe_checkout,
    describe_machine,
    disturbance,
    first_line,
    record,
    summarise,
    to_markdown,
)
from bench.sets import KB, MB, FileSet
from bench.stage import REPOSITORY, Cost, Databases, Stage, WrongResultError, remove_folder
from bench.tls import make_certificates
from bench.tools import MissingToolError, install_tools

UPLOADER = REPOSITORY / "scripts" / "a1_to_a2_box_uploader.py"
QUICK_DIVISOR = 50
QUICK_ROUNDS = 2
ROUND_TRIES = 3
QUIET_PATIENCE_SECONDS = 60.0
WARM_UP = FileSet("warm-up", ((1, 24 * MB), (3, 20 * KB)))


def parse_arguments(argv: Sequence[str] | None, known: Sequence[Case]) -> argparse.Namespace:
    """The options; faults end the program with 2."""
    keys = [case.key for case in known]
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=…", description=__doc__)
    parser.add_argument("--case", action="append", choices=[*keys, "all"], metavar="KEY", dest="cases",
                        help="repeatable, see --list; or all (default: those not marked there)")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="rounds of every case (default: 5 or as the case says)")
    parser.add_argument("--scale", type=int, default=1, metavar="N", help="divide counts and sizes by N")
    parser.add_argument(
        "--quick", action="store_true", help=f"--scale {QUICK_DIVISOR} --rounds {QUICK_ROUNDS}"
    )
    parser.add_argument("--limited-count", type=int, default=LIMITED_COUNT, metavar="N",
                        help=f"files of the case `limits` (default: {LIMITED_COUNT})")  # fmt: skip
    parser.add_argument("--undisturbed", type=float, default=100.0, metavar="PERCENT",
                        help="wait while others have more of the machine, repeat such rounds")  # fmt: skip
    parser.add_argument("--ranges", action="store_true", help="let the DAM answer Range requests")
    parser.add_argument("--checksums", action="store_true", help="let the DAM declare each file's MD5")
    parser.add_argument("--uploader", type=Path, default=UPLOADER, help="another checkout's script")
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="the record (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, help="folder for the files to be moved (default: the system's)")
    parser.add_argument("--list", action="store_true", help="show the cases and stop")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is not met")
    given = parser.parse_args(argv)
    given.uploader = given.uploader.resolve()
    if not given.uploader.is_file():
        parser.error(f"--uploader: {given.uploader} is no file")
    if given.scale < 1 or (given.rounds is not None and given.rounds < 1):
        parser.error("--scale and --rounds begin at 1")
    return given


def choose(given: argparse.Namespace, other_openssl: str) -> list[Case]:
    """The cases asked for, scaled."""
    cases = all_cases(given.limited_count, QUICK_DIVISOR if given.quick else given.scale, other_openssl)
    wanted = given.cases or [case.key for case in cases if case.is_default]
    rounds = QUICK_ROUNDS if given.quick else given.rounds
    return [
        replace(case, rounds=rounds or case.rounds) for case in cases if case.key in wanted or "all" in wanted
    ]


def measure(stage: Stage, case: Case, most_foreign: float) -> Costs:
    """All rounds of a case; who begins changes from round to round.

    It is waited until others have no more of the machine than `most_foreign`. A round in which they had is
    measured again, as a whole; of ROUND_TRIES the least disturbed counts.
    """
    costs: dict[str, list[Cost]] = {entry.label: [] for entry in case.entries}
    for number in range(case.rounds):
        best: dict[str, Cost] = {}
        for _ in range(ROUND_TRIES):
            if not wait_for_quiet(most_foreign, QUIET_PATIENCE_SECONDS):
                say("  others do not leave the machine alone")
            results = measure_round(stage, case, number)
            if not best or disturbance(results.values()) < disturbance(best.values()):
                best = results
            if disturbance(best.values()) <= most_foreign:
                break
            say("  disturbed")
        for label, cost in best.items():
            costs[label].append(cost)
    return costs


def measure_round(stage: Stage, case: Case, number: int) -> dict[str, Cost]:
    """Each contender once."""
    results = {}
    first = number % len(case.entries)
    for entry in [*case.entries[first:], *case.entries[:first]]:
        ready_memory()
        cost = run_contender(entry.contender, stage, entry.task)
        results[entry.label] = cost
        say(f"  round {number + 1}: {entry.label:10} {cost.wall_s:8.2f} s, CPU {cost.cpu_s:7.2f} s,"
            f" {cost.peak_bytes / 1e6:6.1f} MB, others {cost.foreign:4.0%}")  # fmt: skip
    return results


def warm_up(stage: Stage, case: Case) -> None:
    """A small run of each contender, so that the first round does not pay for compiling modules."""
    for name in dict.fromkeys(entry.contender for entry in case.entries):
        if name not in stage.warm and name != "idle workers":
            groups = WARM_UP.groups[:1] if name == "sdk" else WARM_UP.groups
            files = FileSet(f"warm-up {len(groups)}", groups)
            run_contender(name, stage, Task(files, engine_workers=int(name == "workers")))
            stage.warm.add(name)


def say(text: str) -> None:
    """Progress goes to standard error: the table alone is on standard output."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    given = parse_arguments(argv, all_cases())
    if given.list:
        for case in all_cases(given.limited_count):
            print(f"{case.key:14} {case.title}{'' if case.is_default else ' (only when asked for)'}")
        return 0
    try:
        nginx = install_tools()
    except MissingToolError as exc:
        say(str(exc))
        return 2
    enter_own_network()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that nothing is left running
    folder = Path(tempfile.mkdtemp(prefix="a1-to-a2-bench-", dir=given.work))
    folder.chmod(0o711)  # as root, PostgreSQL runs as somebody else, who must get to its own folder
    try:
        document = measure_all(given, nginx, folder)
    finally:
        remove_folder(folder)
    print(to_markdown(document))
    for wrong in document["wrong_results"]:
        say(f"wrong result: {wrong}")
    if document["wrong_results"]:
        return 4
    is_met = all(bar["met"] for case in document["cases"] for bar in case["bars"])
    return 1 if given.strict and not is_met else 0


def measure_all(given: argparse.Namespace, nginx: str, folder: Path) -> Json:
    """The record of all cases, written anew after each of them. A wrong result ends its own case only."""
    openssl = current_openssl(folder / "openssl")
    cases = choose(given, openssl.version if openssl else "")
    document = record(
        machine=describe_machine(),
        versions={
            "nginx": first_line(nginx, "-v"),
            "rclone": first_line(rclone_binary(), "version"),
            "curl": " ".join(first_line("curl", "--version").split()[:2]),
            "uploader": f"uploader {describe_checkout(given.uploader.parents[1])}",
        },
        scale=QUICK_DIVISOR if given.quick else given.scale,
        ranges=given.ranges,
        checksums=given.checksums,
    )
    most_foreign = given.undisturbed / 100
    certificates = make_certificates(folder)
    delays = tuple(sorted({entry.task.delay_ms for case in cases for entry in case.entries} | {0}))
    # The uploader's checkout may be another one than the harness's, and so may its migrations.
    migrations = given.uploader.parents[1] / "database" / "migrations"
    with (
        Databases(folder / "postgres", migrations) as databases,
        NginxFront(
            folder,
            nginx,
            certificates,
            delays_ms=delays,
            ranges=given.ranges,
            checksums=given.checksums,
        ) as front,
        Stage(folder, front, certificates, given.uploader, databases.fresh, openssl, databases.pid) as stage,
    ):
        for case in cases:
            say(f"{case.key}: {case.title}")
            try:
                warm_up(stage, case)
                document["cases"].append(summarise(case, measure(stage, case, most_foreign), most_foreign))
            except WrongResultError as exc:
                say(f"  wrong result: {exc}")
                document["wrong_results"].append(f"{case.key}: {exc}")
            text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
            given.json.write_text(text, encoding="utf-8")
    return document


if __name__ == "__main__":
    raise SystemExit(main())
