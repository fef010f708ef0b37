"""What a watch decides: what it sends, when, and what it never deletes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace_cli.app import app
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import CommandError, NotReachable, ProblemError, UsageError
from headrace_cli.ingest.folders import Folders, beneath
from headrace_cli.ingest.following import file_events
from headrace_cli.ingest.sending import Sent
from headrace_cli.ingest.sources import Change, Failure, Stamp
from headrace_cli.ingest.watching import QUIET_S, Event, Known, Waiting, Watch, due, settle, version_of

pytestmark = pytest.mark.unit
OLD, NEW = Stamp(1, 10, 100), Stamp(2, 10, 100)


class FakeSender:
    """Takes everything, unless ``error`` stands in the way; knows versions by document."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, int]] = []
        self.contents: list[str] = []
        self.versions: dict[str, int] = {}
        self.refused: set[str] = set()
        self.error: Exception | None = None

    def delete(self, identifier: str, newest: int | None) -> Change | Failure:
        if self.error is not None:
            raise self.error
        if newest is None and identifier not in self.versions:
            return Failure(identifier, identifier, "nobody knows of it")
        version = max(newest or 0, self.versions.get(identifier, 0)) + 1
        return Change({"id": identifier, "op": "delete", "version": version}, identifier)

    def send(self, changes: Iterable[Change | Failure]) -> Sent:
        sent = Sent("run")
        for change in changes:
            assert isinstance(change, Change)
            if self.error is not None:
                raise self.error
            identifier, version = change.document_id, change.item["version"]
            if identifier in self.refused:
                sent.failures.append(Failure(change.origin, identifier, "is refused"))
                continue
            self.taken.append((change.item["op"], identifier, version))
            self.contents.append(change.item.get("content", ""))
            self.versions[identifier] = sent.versions[identifier] = version
        return sent


class Heard:
    """Notes what is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.said: list[str] = []
        self.begun = 0

    def event(self, event: Event) -> None:
        self.events.append(event)

    def ready(self) -> None:
        self.begun += 1

    def say(self, text: str) -> None:
        self.said.append(text)


class Scene:
    """A folder ``docs`` with a watch that time and events reach by hand."""

    def __init__(self, folder: Path, time: Any, prefix: str = "") -> None:
        self.folder = folder / "docs"
        self.folder.mkdir()
        self.time = time
        self.sender = FakeSender()
        self.heard = Heard()
        self.prefix = prefix
        self.mtime = 1000
        self.write("first.md")
        self.watch = Watch(Folders([str(self.folder)]), self.sender, self.heard, prefix, time.clock)

    def write(self, name: str, text: str = "text", mtime: int | None = None) -> str:
        """Write a file, each a little later than the one before, and return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.mtime += 10
        os.utime(path, ns=(1, self.mtime if mtime is None else mtime))
        return str(path)

    def begin(self) -> None:
        """Send what is there at the start, and forget that."""
        self.turn()
        self.turn()
        self.sender.taken.clear()
        self.sender.contents.clear()
        self.heard.events.clear()

    def turn(self, *paths: str, seconds: float = QUIET_S) -> None:
        """Take a step, after which time goes by."""
        self.watch.step(paths)
        self.time.time += seconds

    def rest(self, *paths: str) -> list[tuple[str, str, int]]:
        """Take steps until what changed has come to rest; returns what was sent since the last time."""
        self.turn(*paths)
        self.turn()
        taken, self.sender.taken = self.sender.taken, []
        return taken


@pytest.fixture
def scene(tmp_path: Path, fake_time: Any) -> Scene:
    """Return a watch that has begun."""
    made = Scene(tmp_path, fake_time)
    made.begin()
    return made


def test_only_what_differs_and_rests_is_due() -> None:
    """Broken: a file is sent while it is written, or time and again."""
    known = {"same": Known(OLD, 1), "changed": Known(OLD, 1), "gone": Known(OLD, 1), "deleted": Known(None, 2)}
    looked = {"same": OLD, "changed": NEW, "gone": None, "deleted": None, "fresh": OLD, "never": None}
    waiting = settle(looked, known, {}, 10.0)
    assert waiting == {"changed": Waiting(NEW, 10.0), "gone": Waiting(None, 10.0), "fresh": Waiting(OLD, 10.0)}
    assert due(waiting, 10.4) == []
    assert due(waiting, 10.5) == ["changed", "fresh", "gone"]
    again = settle({"changed": NEW, "fresh": NEW, "gone": OLD}, known, waiting, 10.5)
    assert again == {"changed": Waiting(NEW, 10.0), "fresh": Waiting(NEW, 10.5)}


def test_a_version_is_the_files_time_unless_that_would_be_ignored() -> None:
    """Broken: a file that is replaced by an older one, or put back after its delete, never shows."""
    assert [version_of(OLD, newest) for newest in (None, 0, 1, 7)] == [1, 1, 2, 8]


def test_a_folders_documents_are_found_by_their_ids() -> None:
    """Broken: a folder that is moved away leaves its documents in the index."""
    ids = ["a.md", "sub/b.md", "sub/deep/c.md", "subway/d.md"]
    assert beneath(ids, {"sub"}) == {"sub/b.md", "sub/deep/c.md"}
    assert beneath(ids, {"."}) == set(ids)
    assert beneath(ids, {}) == set()


def test_the_start_sends_all_and_then_says_that_it_watches(tmp_path: Path, fake_time: Any) -> None:
    """Broken: what was there before is missing, or nobody knows when the watch has begun."""
    scene = Scene(tmp_path, fake_time, prefix="x/")
    scene.write("sub/b.md")
    scene.write("c.png")
    scene.write("d.jsonl")
    scene.turn()
    assert (scene.sender.taken, scene.heard.begun) == ([], 0)
    scene.turn()
    scene.turn()
    assert scene.sender.taken == [("upsert", "x/first.md", 1010), ("upsert", "x/sub/b.md", 1020)]
    assert scene.heard.begun == 1
    assert [(event.event, event.initial) for event in scene.heard.events] == [
        ("skipped", True), ("skipped", True), ("sent", True), ("sent", True),
    ]  # fmt: skip


def test_created_changed_and_deleted_files_are_sent_each_once(scene: Scene) -> None:
    """Broken: the index does not follow the folder."""
    path = scene.write("sub/b.md")
    assert scene.rest(path) == [("upsert", "sub/b.md", 1020)]
    scene.write("sub/b.md", "new")
    assert scene.rest(path) == [("upsert", "sub/b.md", 1030)]
    assert scene.rest(path) == []
    Path(path).unlink()
    assert scene.rest(path) == [("delete", "sub/b.md", 1031)]
    assert scene.rest(path) == []
    assert [(event.event, event.id, event.version) for event in scene.heard.events] == [
        ("sent", "sub/b.md", 1020), ("sent", "sub/b.md", 1030), ("deleted", "sub/b.md", 1031),
    ]  # fmt: skip


def test_a_delete_goes_above_what_the_gateway_knows(scene: Scene) -> None:
    """Broken: a document that was sent with a higher version before stays in the index."""
    scene.sender.versions["first.md"] = 5000
    (scene.folder / "first.md").unlink()
    assert scene.rest(str(scene.folder / "first.md")) == [("delete", "first.md", 5001)]
    path = scene.write("first.md", mtime=1010)
    assert scene.rest(path) == [("upsert", "first.md", 5002)]


def test_a_file_that_is_written_slowly_is_sent_once(scene: Scene) -> None:
    """Broken: every piece of a slow copy becomes a version, or half of it the last one."""
    for size in range(5):
        scene.turn(scene.write("slow.md", "x" * size), seconds=QUIET_S / 2)
    assert scene.sender.taken == []
    assert scene.rest() == [("upsert", "slow.md", 1060)]
    assert scene.sender.contents == ["xxxx"]


def test_a_file_that_is_replaced_by_renaming_is_never_deleted(scene: Scene) -> None:
    """Broken: each save in an editor takes the document out of search for a moment."""
    path = scene.folder / "first.md"
    path.rename(scene.folder / "first.md~")
    scene.turn(str(path), seconds=QUIET_S / 2)
    scene.write("first.md", "new")
    assert scene.rest(str(path), str(path) + "~") == [("upsert", "first.md", 1020)]


def test_a_file_that_changes_between_look_and_reading_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: what is sent is not what rests."""
    path = scene.write("b.md", "old")
    scene.turn(path)
    real = scene.watch._folders.source

    def source(identifier: str) -> Any:
        scene.write("b.md", "newer")
        monkeypatch.undo()
        return real(identifier)

    monkeypatch.setattr(scene.watch._folders, "source", source)
    scene.turn()
    assert scene.sender.taken == []
    assert scene.rest() == [("upsert", "b.md", 1030)]
    assert scene.sender.contents == ["newer"]


def test_a_folder_that_moves_takes_its_documents_along(scene: Scene) -> None:
    """Broken: old ids stay in search, and new ones come only with the next start."""
    scene.rest(scene.write("old/deep/b.md"))
    (scene.folder / "old").rename(scene.folder / "new")
    assert scene.rest(str(scene.folder / "old"), str(scene.folder / "new")) == [
        ("upsert", "new/deep/b.md", 1020), ("delete", "old/deep/b.md", 1021),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [".hidden.md", ".git/a.md", "~$a.docx", "a.md~", ".#a.md", "a.md.swp", "a.png"])
def test_what_ingest_leaves_out_a_watch_leaves_out(scene: Scene, name: str) -> None:
    """Broken: an editor's temporary file becomes a document."""
    assert scene.rest(scene.write(name)) == []


def test_links_to_folders_are_left_out_as_ingest_does(scene: Scene, tmp_path: Path) -> None:
    """Broken: a linked folder is followed by events and not by ingest, and its ids come and go."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("text")
    (scene.folder / "link").symlink_to(tmp_path / "other")
    assert scene.rest(str(scene.folder / "link"), str(scene.folder / "link" / "a.md")) == []


def test_what_no_event_told_of_is_found_in_the_end(scene: Scene) -> None:
    """Broken: on a network drive, or after a flood of events, changes are lost."""
    scene.write("silent.md")
    (scene.folder / "first.md").unlink()
    assert scene.rest() == []
    scene.time.time += 60
    assert scene.rest() == [("delete", "first.md", 1011), ("upsert", "silent.md", 1020)]


def test_a_gateway_that_is_down_is_waited_for_and_told_of_once(scene: Scene) -> None:
    """Broken: a restart of the gateway ends the watch or loses what was changed meanwhile."""
    scene.sender.error = NotReachable("nobody answers", where="http://gateway")
    path = scene.write("b.md", "first")
    for _ in range(20):
        scene.turn(path)
    scene.sender.error = ProblemError(503, {"detail": "kafka is down"}, where="http://gateway")
    scene.write("b.md", "second")
    (scene.folder / "first.md").unlink()
    for _ in range(60):
        scene.turn(path, str(scene.folder / "first.md"))
    assert scene.sender.taken == []
    assert scene.watch.unsent == ["b.md", "first.md"]
    scene.sender.error = None
    for _ in range(30):
        scene.turn()
    assert sorted(scene.sender.taken) == [("delete", "first.md", 1011), ("upsert", "b.md", 1030)]
    assert scene.sender.contents.count("second") == 1
    assert len(scene.heard.said) == 2
    assert "trying until it does" in scene.heard.said[0]


def test_a_wrong_key_ends_it(scene: Scene) -> None:
    """Broken: a watch that is refused for ever looks alive."""
    scene.sender.error = ProblemError(401, {"detail": "No such key."}, where="http://gateway")
    with pytest.raises(ProblemError, match="No such key"):
        scene.rest(scene.write("b.md"))


def test_what_fails_is_told_once_and_tried_again_when_it_changes(scene: Scene) -> None:
    """Broken: a file that is no UTF-8 fills the log, or is never sent once it is repaired."""
    path = scene.write("b.md")
    Path(path).write_bytes(b"\xff")
    scene.sender.refused = {"c.md"}
    assert scene.rest(path, scene.write("c.md")) == []
    assert scene.rest(path, str(scene.folder / "c.md")) == []
    assert [(event.event, event.id) for event in scene.heard.events] == [("failed", "b.md"), ("failed", "c.md")]
    (scene.folder / "c.md").unlink()
    assert scene.rest(str(scene.folder / "c.md")) == []
    assert scene.rest(scene.write("b.md", "repaired")) == [("upsert", "b.md", 1040)]
    assert scene.watch.unsent == []


def test_a_folder_that_disappears_ends_it_and_deletes_nothing(scene: Scene) -> None:
    """Broken: a drive that is unplugged empties the index."""
    scene.folder.rename(scene.folder.with_name("elsewhere"))
    with pytest.raises(CommandError, match="cannot watch the folder any longer") as caught:
        scene.rest(str(scene.folder / "first.md"))
    assert caught.value.where == str(scene.folder)
    scene.folder.mkdir()  # As an empty mount point stays where a drive was.
    with pytest.raises(CommandError, match="another folder replaced it"):
        scene.rest(str(scene.folder / "first.md"))
    assert scene.sender.taken == []


def test_a_folder_that_may_not_be_entered_deletes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a wrong right, or a drive with a bad day, takes documents out of the index."""
    scene.rest(scene.write("sub/b.md"))
    real = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if "sub" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert scene.rest(str(scene.folder / "sub"), str(scene.folder / "sub" / "b.md")) == []


def test_of_two_files_under_one_id_the_first_folder_has_it(tmp_path: Path, fake_time: Any) -> None:
    """Broken: two files overwrite each other at every change."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text(name)
    sender, heard = FakeSender(), Heard()
    watch = Watch(Folders([str(tmp_path / "one"), str(tmp_path / "two")]), sender, heard, "", fake_time.clock)

    def rest(*paths: str) -> None:
        for turn in (paths, ()):
            watch.step(turn)
            fake_time.time += QUIET_S

    rest()
    (tmp_path / "two" / "a.md").write_text("two, changed")
    rest(str(tmp_path / "two" / "a.md"))
    assert sender.contents == ["one"]
    assert [event.event for event in heard.events if event.event == "failed"] == ["failed"]
    (tmp_path / "one" / "a.md").unlink()
    rest(str(tmp_path / "one" / "a.md"))
    assert sender.contents == ["one", "two, changed"]


def test_what_changed_just_before_the_end_is_sent(scene: Scene) -> None:
    """Broken: a delete right before Ctrl-C is lost for good."""
    (scene.folder / "first.md").unlink()
    scene.watch.run([])
    assert [one[:2] for one in scene.sender.taken] == [("delete", "first.md")]


def test_ctrl_c_does_not_wait_for_a_large_folder(
    tmp_path: Path, fake_time: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: who named the wrong folder can only kill the command."""
    scene = Scene(tmp_path, fake_time)
    for number in range(9):
        scene.write(f"{number}.md")
    monkeypatch.setattr("headrace_cli.ingest.watching.AT_ONCE", 2)
    monkeypatch.setattr(scene.watch, "_stopped", lambda: True)
    scene.watch.run([(), ()])
    assert len(scene.sender.taken) == 2
    assert len(scene.watch.unsent) == 8
    assert scene.heard.begun == 0


def test_only_folders_are_watched(tmp_path: Path) -> None:
    """Broken: a watch on what cannot be watched seems to run."""
    (tmp_path / "a.md").write_text("text")
    for name in ("a.md", "missing"):
        with pytest.raises(UsageError, match="is not a folder"):
            Folders([str(tmp_path / name)])
    with pytest.raises(UsageError):
        Folders(["-"])


@pytest.mark.timeout(60)
def test_the_file_systems_own_events_reach_the_index(tmp_path: Path) -> None:
    """Broken: all of the above holds for events that never come."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("a")
    sender, stop = FakeSender(), threading.Event()
    watch = Watch(Folders([str(folder)]), sender, Heard())

    def new_folder() -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "b.md").write_text("b")

    def replaced() -> None:
        (folder / "b.tmp").write_text("new")
        (folder / "b.tmp").replace(folder / "sub" / "b.md")

    steps: Iterator[Callable[[], None]] = iter([new_folder, replaced, (folder / "a.md").unlink, stop.set])
    until = time.monotonic() + 30

    def events() -> Iterator[Collection[str]]:
        done = 0
        for paths in file_events([str(folder)], stop):
            assert time.monotonic() < until, sender.taken
            yield paths
            if len(sender.taken) > done:
                done = len(sender.taken)
                next(steps)()

    watch.run(events())
    assert [one[:2] for one in sender.taken] == [
        ("upsert", "a.md"), ("upsert", "sub/b.md"), ("upsert", "sub/b.md"), ("delete", "a.md"),
    ]  # fmt: skip
    assert sender.contents == ["a", "b", "new", ""]
    assert watch.unsent == []


def start(gateway: Any, *arguments: str) -> subprocess.Popen[str]:
    """Start a watch as a process."""
    environment = {**os.environ, "HEADRACE_URL": gateway.url, "HEADRACE_API_KEY": "hr_k"}
    words = [sys.executable, "-m", "headrace_cli.app", "ingest", *arguments, "--watch"]
    return subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.timeout(60)
def test_a_watch_tells_each_change_and_ends_cleanly(gateway: Any, tmp_path: Path) -> None:
    """Broken: a script cannot follow a watch, or a service manager takes its end for a failure."""
    (tmp_path / "a.md").write_text("a")
    with start(gateway, str(tmp_path), "--prefix", "x/", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "1 documents sent; watching" in process.stderr.readline()
        (tmp_path / "b.pdf").write_bytes(b"%PDF")
        sent = json.loads(process.stdout.readline())
        (tmp_path / "a.md").unlink()
        deleted = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert sent == {
        "event": "sent", "id": "x/b.pdf", "version": (tmp_path / "b.pdf").stat().st_mtime_ns,
        "origin": str(tmp_path / "b.pdf"),
    }  # fmt: skip
    assert (deleted["event"], deleted["id"]) == ("deleted", "x/a.md")
    assert json.loads(out) == {
        "event": "summary", "sent": 2, "deleted": 1, "failed": 0, "unsent": [], "skipped": [],
    }  # fmt: skip
    first, second, third = gateway.changes()
    assert [one[0]["op"] for one in (first, second, third)] == ["upsert", "upsert", "delete"]
    assert third[0]["version"] == first[0]["version"] + 1
    assert "content_base64" in second[0]


@pytest.mark.timeout(60)
def test_a_folder_that_is_removed_ends_the_command_with_its_name(gateway: Any, tmp_path: Path) -> None:
    """Broken: a watch goes on over nothing."""
    folder = tmp_path / "docs"
    folder.mkdir()
    with start(gateway, str(folder)) as process:
        assert process.stderr is not None
        assert "0 documents sent; watching" in process.stderr.readline()
        folder.rmdir()
        out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.FAILED
    assert "0 changes accepted" in out
    assert f"where: {folder}" in err


@pytest.mark.parametrize("option", [["--dry-run"], ["--version", "3"], ["--wait"]])
def test_what_makes_no_sense_with_a_watch_is_refused(option: list[str], tmp_path: Path) -> None:
    """Broken: an option is taken and has no effect."""
    result = CliRunner().invoke(app, ["ingest", str(tmp_path), "--watch", *option])
    assert result.exit_code == ExitCode.USAGE
    assert f"where: {option[0]}" in result.stderr
