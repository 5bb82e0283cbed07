"""What people have in Box stays as it is, and what they must do there is told in plain words."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest

from simulators.dam import GeneratedContent
from world import World, wait_for

ROOT = "C-1 - Summer"


def names_and_bytes(world: World, folder_id: str) -> dict[str, bytes]:
    return {
        file.name: world.box.content(file.id) for file in world.box.files() if file.parent_id == folder_id
    }


def made_folder(world: World, campaign: str) -> str:
    """The campaign's folder in Box, made by a run that could do nothing more, and so remembered."""
    stopped = world.box.fail(
        r"POST .*/files/content", status=403, code="access_denied_insufficient_permissions"
    )
    assert world.upload().outcomes == {campaign: "failed"}
    assert stopped.hits
    world.box.clear_faults()
    folder = world.row(campaign)["box_folder_id"]
    assert isinstance(folder, str)
    return folder


# ---------------------------------------------------------------------------------------------------------
# Files of others


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        pytest.param("Größe.pdf", "Grösse.pdf", id="sharp s"),
        pytest.param("5m².pdf", "5m2.pdf", id="superscript"),
        pytest.param("ﬁnal.jpg", "final.jpg", id="ligature"),
        pytest.param("İstanbul.jpg", "istanbul.jpg", id="Turkish i"),
        pytest.param("ｆｉｌｍ.jpg", "film.jpg", id="full width"),
        pytest.param(unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg"), id="NFD"),
        pytest.param("FILM.jpg", "film.jpg", id="case"),
        pytest.param("film.jpg.", "film.jpg", id="dot at the end"),
    ],
)
@pytest.mark.parametrize("is_strict", [True, False], ids=["Box folds", "Box knows case only"])
def test_file_of_a_person__is_never_overwritten(
    world: World, theirs: str, ours: str, is_strict: bool
) -> None:
    world.box.options.nfkc_names = is_strict
    campaign = world.add_full_campaign("Summer", "C-1", [(ours, b"our bytes")])
    folder = made_folder(world, campaign)
    person = world.box.add_file(folder, theirs, b"a person's")
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    files = {file.id: file for file in world.box.files()}
    assert (files[person].name, files[person].versions) == (theirs, 1)
    assert world.box.content(person) == b"a person's"
    stored = names_and_bytes(world, folder)
    (entry,) = json.loads(stored.pop("_manifest.json"))["assets"]
    assert stored[entry["path"]] == b"our bytes"
    assert len(stored) == 2
    # The next version of the asset becomes a new version of that file, and of no other.
    world.dam.replace_content(entry["dam_id"], b"our newer bytes")
    world.dam.set_status(campaign, "A1")
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert world.box.content(entry["box_id"]) == b"our newer bytes"
    assert world.box.content(person) == b"a person's"
    assert len(names_and_bytes(world, folder)) == 3


def test_file__of_exactly_the_same_name_gets_a_new_version(world: World) -> None:
    """It may be what a run left that was killed; Box keeps the version before."""
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"ours")])
    folder = made_folder(world, campaign)
    there = world.box.add_file(folder, "film.jpg", b"what was there")
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert sorted(names_and_bytes(world, folder)) == ["_manifest.json", "film.jpg"]
    assert world.box.content(there) == b"ours"
    assert {file.id: file.versions for file in world.box.files()}[there] == 2


def test_file_of_a_person__with_the_same_bytes_will_do(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"the same")])
    folder = made_folder(world, campaign)
    world.box.add_file(folder, "FILM.JPG", b"the same")
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert sorted(names_and_bytes(world, folder)) == ["FILM.JPG", "_manifest.json"]


@pytest.mark.parametrize("theirs", [b"x" * 21 * 1024 * 1024, b"short"], ids=["as long", "shorter"])
def test_file_of_a_person__large_is_never_overwritten(world: World, theirs: bytes) -> None:
    content = GeneratedContent(21 * 1024 * 1024, seed=3)
    campaign = world.dam.add_campaign("Summer", "C-1")
    master = world.dam.master_assets_folder(campaign)
    assert master is not None
    world.dam.add_asset(master, "film.mp4", content)
    world.dam.add_asset(master, "a.jpg", b"a")
    folder = made_folder(world, campaign)
    for file in world.box.files():
        if file.parent_id == folder:
            world.box.delete(file.id, "file")
    person = world.box.add_file(folder, "FILM.mp4", theirs)
    assert world.upload().outcomes == {campaign: "uploaded"}
    files = {file.id: file for file in world.box.files()}
    assert (files[person].name, files[person].versions, files[person].size) == ("FILM.mp4", 1, len(theirs))
    assert content.sha1() in {file.sha1 for file in files.values()}


def test_assets_of_ours__that_box_takes_for_one_stay_two(world: World) -> None:
    names = ["Größe.pdf", "Grösse.pdf", "GRÖSSE.PDF", "film.jpg.", "film.jpg"]
    campaign = world.add_full_campaign("Summer", "C-1", [(name, name.encode()) for name in names])
    assert world.upload().outcomes == {campaign: "uploaded"}
    stored = names_and_bytes(world, world.row(campaign)["box_folder_id"])
    del stored["_manifest.json"]
    assert sorted(stored.values()) == sorted(name.encode() for name in names)


def test_asset__imported_anew_replaces_the_one_that_is_gone(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"first")])
    assert world.upload().outcomes == {campaign: "uploaded"}
    (entry,) = next(iter(world.receipts().values()))["assets"]
    world.dam.remove(entry["dam_id"])
    folder = world.dam.master_assets_folder(campaign)
    assert folder is not None
    world.dam.add_asset(folder, "film.jpg", b"second")
    world.dam.set_status(campaign, "A1")
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert world.box.content(entry["box_id"]) == b"second"


@pytest.mark.parametrize("kind", ["web_link", "folder"])
def test_name__of_a_bookmark_or_a_folder_is_left_to_it(world: World, kind: str) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    folder = made_folder(world, campaign)
    if kind == "folder":
        world.box.add_folder(folder, "film.jpg")
    else:
        conflict = {"type": "web_link", "id": "55", "name": "film.jpg"}
        body = {
            "type": "error",
            "status": 409,
            "code": "item_name_in_use",
            "context_info": {"conflicts": conflict},
        }
        world.box.fail(r"POST .*/files/content", status=409, body=body, times=1)
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    (entry,) = next(iter(world.receipts().values()))["assets"]
    assert entry["path"].startswith("film (")


def test_receipt__of_somebody_else_is_left_alone(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    folder = made_folder(world, campaign)
    world.box.add_file(folder, "_manifest.json", b'{"mine": true}')
    for _ in range(2):
        assert world.upload().outcomes == {campaign: "uploaded"}
        world.dam.set_status(campaign, "A1")
    stored = names_and_bytes(world, folder)
    assert stored["_manifest.json"] == b'{"mine": true}'
    assert len(stored) == 3, "ours lies beside it, as one file of two versions"
    (theirs,) = [file.id for file in world.box.files() if file.name == "_manifest.json"]
    verified = world.run("a1_to_a2_box_uploader.py", "--verify", campaign, "--json")
    assert verified.report["differences"] == [
        f"Box also contains _manifest.json (file {theirs}), which was not put there by us"
    ]


# ---------------------------------------------------------------------------------------------------------
# Folders of others


def test_folder_of_people__is_not_taken_over(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    theirs = world.box.add_folder(world.box_root, "c-1 - SUMMER")
    layout = world.box.add_file(theirs, "film.jpg", b"a layout")
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert names_and_bytes(world, theirs) == {"film.jpg": b"a layout"}
    assert world.box.content(layout) == b"a layout"
    ours = world.row(campaign)["box_folder_id"]
    assert {folder.name for folder in world.box.folders() if folder.id == ours} == {
        f"{ROOT} ({campaign[:8]})"
    }


def test_folder__that_is_empty_is_taken_over(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    empty = world.box.add_folder(world.box_root, ROOT)
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert world.row(campaign)["box_folder_id"] == empty


def test_folder__with_our_receipt_is_ours_after_the_database_was_lost(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film"), ("still.jpg", b"still")])
    assert world.upload().outcomes == {campaign: "uploaded"}
    folder = world.row(campaign)["box_folder_id"]
    entries = {entry["name"]: entry for entry in next(iter(world.receipts().values()))["assets"]}
    world.sql("DELETE FROM campaign_assets")
    world.sql("DELETE FROM campaign_status")
    world.dam.replace_content(entries["film.jpg"]["dam_id"], b"newer film")
    world.dam.set_status(campaign, "A1")
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert world.row(campaign)["box_folder_id"] == folder
    assert names_and_bytes(world, folder).keys() == {"film.jpg", "still.jpg", "_manifest.json"}
    assert world.box.content(entries["film.jpg"]["box_id"]) == b"newer film"


def test_folder__with_another_campaigns_receipt_is_not_taken_over(world: World) -> None:
    first = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"first")])
    assert world.upload().outcomes == {first: "uploaded"}
    folder = world.row(first)["box_folder_id"]
    world.sql("DELETE FROM campaign_status")
    second = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"second")])
    assert world.upload().outcomes == {second: "uploaded"}
    assert world.row(second)["box_folder_id"] != folder
    assert names_and_bytes(world, folder)["film.jpg"] == b"first"


def test_sub_folder__name_of_a_persons_file_is_left_to_it(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [])
    master = world.dam.master_assets_folder(campaign)
    assert master is not None
    world.dam.add_asset(world.dam.add_folder(master, "Print"), "p.pdf", b"pdf")
    world.dam.add_asset(world.dam.add_folder(master, "Web"), "w.jpg", b"web")
    world.dam.add_asset(master, "a.jpg", b"a")
    folder = world.box.add_folder(world.box_root, ROOT)
    assert world.upload("--dry-run").exit_code == 0
    world.box.fail(r"POST .*/files/content", status=403)
    assert world.upload().exit_code == 4
    world.box.clear_faults()
    for made in world.box.folders():
        if made.parent_id == folder:
            world.box.delete(made.id, "folder")
    world.box.add_file(folder, "PRINT", b"a person's")
    theirs = world.box.add_folder(folder, "Web")
    world.box.add_file(theirs, "W.jpg", b"a person's, too")
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    contents = {file.path.split("/", 2)[2]: world.box.content(file.id) for file in world.box.files()}
    assert contents["PRINT"] == b"a person's"
    assert contents["Web/W.jpg"] == b"a person's, too"
    assert sorted(contents.values(), key=str)[-5:].count(b"pdf") == 1
    assert list(contents.values()).count(b"web") == 1


# ---------------------------------------------------------------------------------------------------------
# What is ours, and one answer denies it

ASKED_FOR = r"GET .*/files/\d+\?fields="


def lose_answer_of_upload(world: World, number: int) -> None:
    """Box takes the file, and what it says about that cannot be read."""
    world.box.fail(r"POST .*/files/content", status=200, body=b"{not", effect=True, times=1, skip=number - 1)


@pytest.mark.parametrize("is_denied", [False, True], ids=["Box tells", "Box denies it once"])
def test_name__taken_by_our_own_file_at_the_last_try_is_not_changed(world: World, is_denied: bool) -> None:
    """Try 1: the download breaks. Try 2: Box takes the file, but its answer is lost. Try 3: the conflict."""
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    world.dam.fail(r"GET .*/contents", truncate=1, times=1)
    lose_answer_of_upload(world, 1)
    denied = world.box.fail(ASKED_FOR, status=404, times=int(is_denied))
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert denied.hits == int(is_denied)
    assert {file.name for file in world.box.files()} == {"film.jpg", "_manifest.json"}


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        pytest.param(ASKED_FOR, 404, None, id="gone"),
        pytest.param(r"GET .*/files/\d+/content", 200, b"<html>Sign in</html>", id="no receipt"),
    ],
)
def test_receipt__whose_upload_got_no_answer_is_ours_despite_a_wrong_answer(
    world: World, answer: str, status: int, body: bytes | None
) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    world.box.fail(r"POST .*/files/content", status=500, effect=True, times=1, skip=1)
    wrong = world.box.fail(answer, status=status, body=body, times=1)
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert wrong.hits
    assert {file.name for file in world.box.files()} == {"film.jpg", "_manifest.json"}


def test_receipt__that_reads_as_nonsense_once_gets_a_new_version(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    assert world.upload().outcomes == {campaign: "uploaded"}
    world.dam.set_status(campaign, "A1")
    wrong = world.box.fail(r"GET .*/files/\d+/content", status=200, body=b"<html>Sign in</html>", times=1)
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert wrong.hits
    assert {file.name: file.versions for file in world.box.files()} == {"film.jpg": 1, "_manifest.json": 2}


def test_folder__with_our_receipt_is_ours_although_it_reads_as_nonsense_once(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    assert world.upload().outcomes == {campaign: "uploaded"}
    world.sql("DELETE FROM campaign_assets")
    world.sql("DELETE FROM campaign_status")
    world.dam.set_status(campaign, "A1")
    wrong = world.box.fail(r"GET .*/files/\d+/content", status=200, body=b"<html>Sign in</html>", times=1)
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert wrong.hits
    assert [folder.name for folder in world.box.folders() if folder.parent_id == world.box_root] == [ROOT]


@pytest.mark.parametrize("status", [403, 404])
def test_folder__whose_making_got_no_answer_is_ours_despite_a_wrong_answer(world: World, status: int) -> None:
    """Box made it, the answer was lost; asked what is in it, Box denies once that we may see it."""
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    world.box.fail(r"POST .*/folders\b", status=500, effect=True, times=1)
    world.box.fail(r"GET .*/folders/\d+/items", status=status, times=1)
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert [folder.name for folder in world.box.folders() if folder.parent_id == world.box_root] == [ROOT]


# ---------------------------------------------------------------------------------------------------------
# What people must do


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        pytest.param(
            "access_denied_item_locked", 403, ["locked in Box by Anna Rossi", "unlock it"], id="lock"
        ),
        pytest.param("", 423, ["locked in Box by Anna Rossi", "unlock it"], id="423"),
        pytest.param("forbidden_by_policy", 403, ["Shield", "administrator"], id="Shield"),
        pytest.param(
            "access_denied_item_under_retention", 403, ["retention", "administrator"], id="retention"
        ),
        pytest.param("forbidden_by_legal_hold", 403, ["legal hold", "administrator"], id="legal hold"),
        pytest.param("file_size_limit_exceeded", 403, ["larger than", "administrator"], id="too large"),
        pytest.param("", 413, ["larger than", "administrator"], id="413"),
        pytest.param("access_denied_insufficient_permissions", 403, ["editor"], id="no right"),
        pytest.param("", 403, ["editor"], id="403 without a word"),
        pytest.param("something_new", 403, ["editor", "administrator"], id="403 with an unknown word"),
    ],
)
def test_refusal__says_which_file_and_who_can_cure_it(
    world: World, code: str, status: int, words: list[str]
) -> None:
    size = 21 * 1024 * 1024 if status == 423 else 10
    campaign = world.dam.add_campaign("Summer", "C-1")
    master = world.dam.master_assets_folder(campaign)
    assert master is not None
    asset = world.dam.add_asset(master, "film.mp4", GeneratedContent(size, seed=1))
    assert world.upload().outcomes == {campaign: "uploaded"}
    world.dam.replace_content(asset, GeneratedContent(size, seed=2))
    world.dam.set_status(campaign, "A1")
    holder: dict[str, Any] = {"type": "user", "id": "7", "name": "Anna Rossi", "login": "anna@example.com"}
    world.box.fail(
        r"GET .*fields=id,lock", body={"type": "file", "id": "1", "lock": {"created_by": holder}}, status=200
    )
    world.box.fail(r"POST .*/files/\d+/(content|upload_sessions)", status=status, code=code or None)
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (4, {campaign: "failed"}), run.stderr
    error = run.report["campaigns"][0]["error"]
    assert "film.mp4" in error
    for word in words:
        assert word in error, error
    (mail,) = [mail for mail in world.mail.messages if "🛑" in str(mail.message["Subject"])]
    assert "film.mp4" in mail.message.get_body(("plain",)).get_content()


def test_account_that_is_full__is_told_as_such_wherever_it_is_met(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    world.box.fail(r"POST /2.0/folders", status=403, code="storage_limit_exceeded")
    run = world.upload()
    assert (run.exit_code, run.outcomes) == (2, {campaign: "failed"})
    assert "the Box account is full" in run.report["campaigns"][0]["error"]
    assert "BOX_ROOT_FOLDER_ID" not in run.stderr


def test_root_folder_that_is_gone__is_told_by_its_variable(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    world.box.delete(world.box_root, "folder")
    run = world.upload()
    assert (run.exit_code, run.outcomes, world.subjects) == (2, {campaign: "failed"}, [])
    error = run.report["campaigns"][0]["error"]
    assert f"Box folder {world.box_root} (BOX_ROOT_FOLDER_ID)" in error
    assert "editor" in error


def test_folder_in_box__deleted_while_files_are_copied_is_made_anew(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    folder = made_folder(world, campaign)
    held = world.box.fail(r"POST .*/files/content", delay=1, times=1)
    process = world.start("a1_to_a2_box_uploader.py", "--auth-pfx-v2", "--json")
    wait_for(lambda: held.hits == 1)
    world.box.delete(folder, "folder")
    run = world.finish(process)
    assert (run.exit_code, run.outcomes) == (0, {campaign: "uploaded"}), run.stderr
    assert world.row(campaign)["box_folder_id"] != folder


# ---------------------------------------------------------------------------------------------------------
# Two campaigns


def test_asset__that_two_campaigns_share_arrives_in_both(world: World) -> None:
    first = world.add_full_campaign("Summer", "C-1", [("film.jpg", b"film")])
    second = world.add_full_campaign("Winter", "C-2", [])
    master = world.dam.master_assets_folder(second)
    asset = world.dam.add_asset(master, "shared.jpg", b"shared")
    folder = world.dam.master_assets_folder(first)
    assert folder is not None
    world.dam.link(folder, asset)
    world.dam.fail(rf"GET .*/assets/{asset}/contents", delay=0.7)
    run = world.upload()
    assert run.exit_code == 0, run.stderr
    assert run.outcomes == {first: "uploaded", second: "uploaded"}
    assert {"C-1 - Summer/shared.jpg", "C-2 - Winter/shared.jpg"} <= world.box_files().keys()
    lines = [line for line in run.stderr.splitlines() if f"asset {asset} is in Box" in line]
    assert sorted("C-1" in line for line in lines) == [False, True], "each names its campaign"


def test_folder_on_record__that_is_denied_once_is_used_all_the_same(world: World) -> None:
    campaign = world.add_full_campaign("Summer", "C-1", [("a.jpg", b"a"), ("b.jpg", b"b")])
    refused = world.box.fail(r"POST .*/files/content", status=403, times=1)
    assert world.upload().outcomes == {campaign: "failed"}
    assert refused.hits
    folder = world.row(campaign)["box_folder_id"]
    world.box.fail(rf"GET /2.0/folders/{folder}\?", status=404, times=1)
    assert world.upload().outcomes == {campaign: "uploaded"}
    assert world.row(campaign)["box_folder_id"] == folder
    assert [made.id for made in world.box.folders() if made.parent_id == world.box_root] == [folder]
