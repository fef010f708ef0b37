"""Large payloads in the object store: what goes there comes back, and nothing else is ever read."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings, ObjectSettings
from headrace.envelope import Change, Context, Metadata, Operation, Reference, Trace
from headrace.errors import ConfigurationError, DependencyDown, InvalidRecord, PermanentError
from headrace.objects.claims import Claim, Claims, portions
from headrace.objects.places import ObjectDamaged, ObjectGone, Place, checked, folder_of, named_in, parse, reference_to
from headrace.objects.store import MARKER, ObjectStore, store_of
from headrace.payloads import DocumentFacts, SourceDocument

pytestmark = pytest.mark.unit

CODEC = Codec(FixedIds())
NOW = datetime(2026, 1, 2, 23, 59, tzinfo=UTC)
RECORD = "headrace.SourceDocument"
OWNER = {"kafka_cluster": "c1", "topic_prefix": ""}
TENANTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\x00"), min_size=1, max_size=512)


def store_in(folder: Path, owner: dict[str, str] | None = None, **values: Any) -> ObjectStore:
    """A store in the folder."""
    return ObjectStore(ObjectSettings(url=f"file://{folder}", **values), lambda: owner or OWNER)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a store that the migration step began."""
    store_in(tmp_path).begin()
    return tmp_path


def claims_in(folder: Path, now: datetime = NOW, **values: Any) -> Claims:
    """Claims over the folder."""
    configured = ObjectSettings(url=f"file://{folder}", **values)
    return Claims(CODEC, ObjectStore(configured, lambda: OWNER), configured, now=lambda: now)


def context(text: str = "large text", tenant: str = "acme") -> Context:
    """An envelope of a document with that text."""
    payload = SourceDocument(DocumentFacts("T", "text/plain", bytes(16)), text)
    return Context(Trace("r", "default", 1, NOW), Change(tenant, "d", 1, Operation.UPSERT), payload, Metadata())


def stored(claims: Claims, found: Context) -> Claim:
    """Check a payload in, and return the claim."""
    value, parcel = claims.check_in(found, SourceDocument)
    asyncio.run(claims.store([parcel]))
    envelope, reference = CODEC.envelope(value, SourceDocument)
    assert reference is not None
    return Claim(envelope, reference)


def fetched(claims: Claims, claim: Claim) -> Context | BaseException:
    """Check one payload out."""
    return asyncio.run(claims.check_out([claim], SourceDocument))[0]


def reference(data: bytes = b"bytes", tenant: str = "acme") -> Reference:
    """A reference to these bytes."""
    return reference_to(Place(folder_of(tenant), date(2026, 1, 2), hashlib.sha256(data).digest()), len(data), RECORD)


def test_a_payload_comes_back_as_it_was(home: Path) -> None:
    """Broken: a large document loses something on its way through the store."""
    claims = claims_in(home)
    claim = stored(claims, context())
    assert claim.context.payload is None
    assert claim.reference.uri.startswith("claim:acme/20260102/")
    assert fetched(claims, claim) == context()
    held = home / claim.reference.uri.removeprefix("claim:")
    assert hashlib.sha256(held.read_bytes()).digest() == claim.reference.sha256
    assert store_in(home).read(claim.reference, "acme", RECORD) == held.read_bytes()


def test_the_same_payload_is_stored_once_for_each_tenant(home: Path) -> None:
    """Broken: a batch that is computed again doubles the store, or one tenant's deletion takes another's text."""
    claims = claims_in(home)
    first, again, other = (stored(claims, context(tenant=tenant)) for tenant in ("acme", "acme", "other"))
    assert first.reference == again.reference
    assert other.reference.uri.startswith("claim:other/")
    assert sorted(place.folder for place, _ in store_in(home).objects()) == ["acme", "other"]


@settings(max_examples=200, derandomize=True)
@given(TENANTS, TENANTS)
def test_every_tenant_has_a_folder_of_its_own(first: str, second: str) -> None:
    """Broken: a tenant called ``..`` leaves the store, or two tenants share objects."""
    folder = folder_of(first)
    assert parse(f"{folder}/20260102/{'ab' * 32}") == Place(folder, date(2026, 1, 2), b"\xab" * 32)
    assert len(folder) <= 100
    assert (folder == folder_of(second)) == (first == second)


def test_no_tenant_is_named_as_the_marker(home: Path) -> None:
    """Broken: a tenant of that name stops every stage, for its folder is where the marker's file is."""
    claims = claims_in(home)
    stored(claims, context())
    for name in (MARKER, MARKER.lstrip("_")):
        found = context(tenant=name)
        assert fetched(claims, stored(claims, found)) == found


def test_a_file_where_a_folder_should_be_holds_no_object(home: Path) -> None:
    """Broken: a record of one tenant stops the stage for ever, for what lies in its folder's place is a file."""
    claims = claims_in(home)
    stored(claims, context())
    (home / "blocked").write_text("a file where the tenant's folder should be")
    claim = Claim(context(tenant="blocked").with_payload(None), reference(tenant="blocked"))
    outcome = fetched(claims, claim)
    assert isinstance(outcome, ObjectGone)
    with pytest.raises(ObjectGone):
        store_in(home).read(claim.reference, "blocked", RECORD)


FORGED: dict[str, Callable[[Reference], Reference]] = {
    "another store": lambda one: replace(one, uri=one.uri.replace("claim:", "s3://other/")),
    "a file": lambda one: replace(one, uri="file:///etc/passwd"),
    "up": lambda one: replace(one, uri="claim:../../etc/passwd"),
    "up from a place": lambda one: replace(one, uri=one.uri.replace("acme", "acme/..")),
    "another tenant": lambda one: replace(one, uri=one.uri.replace("acme", "other")),
    "another digest": lambda one: replace(one, sha256=bytes(32)),
    "a short digest": lambda one: replace(one, sha256=b""),
    "no day": lambda one: replace(one, uri=one.uri.replace("20260102", "20261302")),
    "the marker": lambda one: replace(one, uri=f"claim:{MARKER}"),
    "another record": lambda one: replace(one, record="headrace.Artifact"),
    "nothing": lambda one: replace(one, uri=""),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_reference_is_refused_unread(forge: Callable[[Reference], Reference], home: Path) -> None:
    """Broken: who can write a record has a worker read other places, or other tenants' texts."""
    with pytest.raises(InvalidRecord, match="reference"):
        store_in(home / "not-there").read(forge(reference()), "acme", RECORD)


def test_an_object_above_the_limit_is_neither_written_nor_read(home: Path) -> None:
    """Broken: one record takes all memory."""
    claim = stored(claims_in(home), context("a" * 3000))
    small = claims_in(home, max_bytes=2000)
    outcome = fetched(small, claim)
    assert isinstance(outcome, PermanentError)
    assert "HEADRACE_OBJECTS_MAX_BYTES" in str(outcome)
    with pytest.raises(InvalidRecord, match=r"has 30\d\d bytes; the limit for the object store is 2000"):
        small.check_in(context("a" * 3000), SourceDocument)
    for size in (-1, 2**62):
        with pytest.raises(PermanentError, match="the limit is"):
            checked(replace(reference(), size=size), "acme", RECORD, 1000)


def test_what_is_not_what_was_written_is_damaged(home: Path) -> None:
    """Broken: bytes that somebody changed are indexed as the document."""
    claims = claims_in(home)
    claim = stored(claims, context())
    held = home / claim.reference.uri.removeprefix("claim:")
    whole = held.read_bytes()
    for damaged, reason in (
        (whole[:-1], "bytes, but the reference says"),
        (b"\x01" + whole[1:], "differs from the reference"),
    ):
        held.write_bytes(damaged)
        outcome = fetched(claims, claim)
        assert isinstance(outcome, ObjectDamaged)
        assert reason in str(outcome)
        assert claim.reference.uri in str(outcome)
    held.unlink()
    gone = fetched(claims, claim)
    assert isinstance(gone, ObjectGone)
    assert claim.reference.uri in str(gone)


def test_a_store_that_is_not_there_is_no_records_fault(home: Path) -> None:
    """Broken: an unmounted folder turns every large document into a dead letter."""
    folder = home / "store"
    folder.mkdir()
    store_in(folder).begin()
    claims = claims_in(folder)
    claim = stored(claims, context())
    folder.rename(home / "elsewhere")
    for there in (False, True):
        if there:
            folder.mkdir()
        with pytest.raises(DependencyDown) as caught:
            fetched(claims_in(folder), claim)
        assert caught.value.dependency == "object-store"
        assert "HEADRACE_OBJECTS_URL" in str(caught.value)
    with pytest.raises(DependencyDown, match="does not exist"):
        stored(claims_in(home / "none"), context())


def test_a_folder_that_loses_its_mount_is_not_begun_anew(home: Path) -> None:
    """Broken: payloads are written below an empty mount point, where no other stage finds them."""
    folder = home / "store"
    folder.mkdir()
    store_in(folder).begin()
    claims = claims_in(folder)
    stored(claims, context())
    folder.rename(home / "elsewhere")
    for mounted in (False, True):
        if mounted:
            folder.mkdir()
        with pytest.raises(DependencyDown, match=MARKER):
            stored(claims, context("another"))
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize("first", [True, False], ids=["at the first use", "later"])
@pytest.mark.parametrize("reads", [True, False], ids=["reading", "writing"])
def test_a_folder_that_hangs_stops_nothing_else(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, first: bool, reads: bool
) -> None:
    """Broken: a mount whose server is away stops the loop of the stage: its answers to `/readyz`, and its drain."""
    claims = claims_in(home, timeout_s=0.2)
    claim = stored(claims, context())
    (home / claim.reference.uri.removeprefix("claim:")).unlink()
    if first:
        claims = claims_in(home, timeout_s=0.2)
    back = threading.Event()
    for owner, name in ((Path, "is_dir"), (Path, "exists"), (ObjectStore, "_marker")):
        monkeypatch.setattr(owner, name, hanging(getattr(owner, name), back))
    _, parcel = claims.check_in(context("another"), SourceDocument)

    async def use() -> float:
        used = asyncio.ensure_future(claims.check_out([claim], SourceDocument) if reads else claims.store([parcel]))
        await asyncio.sleep(0)
        longest, last = 0.0, time.monotonic()
        while not used.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        back.set()
        with pytest.raises(DependencyDown, match="did not answer within"):
            await used
        return longest

    assert asyncio.run(use()) < 1
    assert isinstance(fetched(claims, claim), ObjectGone)


def hanging(call: Callable[..., Any], back: threading.Event) -> Callable[..., Any]:
    """The call on a mount whose server is away until then."""

    def waiting(*arguments: Any) -> Any:
        back.wait(3)
        return call(*arguments)

    return waiting


def test_a_store_that_cannot_be_written_is_down(home: Path) -> None:
    """Broken: a full or broken disk costs dead letters, or a record goes out without its payload."""
    claims = claims_in(home)
    stored(claims, context("another"))
    (home / "blocked").write_text("a file where the tenant's folder should be")
    with pytest.raises(DependencyDown, match="cannot use the object store"):
        stored(claims, context(tenant="blocked"))


def test_a_store_belongs_to_one_deployment(home: Path) -> None:
    """Broken: the garbage collector of one deployment deletes what another one's log refers to."""
    stored(claims_in(home), context())
    store_in(home).require_owner()
    assert store_in(home).begin() is False
    other = store_in(home, {"kafka_cluster": "c2", "topic_prefix": ""})
    for refused in (other.begin, other.require_owner):
        with pytest.raises(ConfigurationError, match=r"c1.*c2"):
            refused()
    (home / MARKER).write_text("{")
    with pytest.raises(ConfigurationError, match="unreadable"):
        store_in(home).begin()


def test_no_stage_begins_a_store(tmp_path: Path) -> None:
    """Broken: a stage that starts without its mount begins a new store below it, and old payloads are taken for lost.

    What it wrote there would be out of reach, too, once the folder is mounted.
    """
    claims = claims_in(tmp_path)
    for _ in range(2):
        with pytest.raises(DependencyDown, match="headrace bootstrap") as caught:
            stored(claims, context())
        assert caught.value.dependency == "object-store"
        with pytest.raises(DependencyDown, match="HEADRACE_OBJECTS_URL"):
            store_in(tmp_path).read(reference(), "acme", RECORD)
    assert list(tmp_path.iterdir()) == []
    assert store_in(tmp_path).begin() is True
    stored(claims, context())


def test_of_two_that_begin_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: two deployments own one store, and each collects the other's payloads."""
    late, early = store_in(tmp_path, {**OWNER, "kafka_cluster": "c2"}), store_in(tmp_path)
    look = late._marker

    def first_nothing() -> Any:
        monkeypatch.setattr(late, "_marker", look)
        found = look()
        early.begin()
        return found

    monkeypatch.setattr(late, "_marker", first_nothing)
    with pytest.raises(ConfigurationError, match=r"c1.*c2"):
        late.begin()
    early.require_owner()


def test_places_are_found_in_any_bytes() -> None:
    """Broken: an object to which a dead letter refers, or a record of an unknown schema, is deleted as garbage."""
    envelope = CODEC.encode(context().with_payload(None), SourceDocument, reference())
    other = reference(b"more", tenant="téñant")
    both = b"\x00\xff" + envelope + b"claim:x/y" + other.uri.encode() + b"0 claim:" * 3
    assert named_in(both) == {reference().uri.removeprefix("claim:"), other.uri.removeprefix("claim:")}
    assert named_in(b"no claim: here") == set()


def test_only_our_own_objects_are_listed_and_deleted(home: Path) -> None:
    """Broken: the collector deletes what lies beside the payloads, or breaks on it."""
    claim = stored(claims_in(home), context())
    (home / "notes.txt").write_text("keep")
    (home / "acme" / "notes.txt").write_text("keep")
    half = home / f"{claim.reference.uri.removeprefix('claim:')}#1"
    half.write_text("half")
    store = store_in(home)
    found = [place for place, _ in store.objects()]
    assert [f"claim:{place.key}" for place in found] == [claim.reference.uri]
    assert store.unfinished(datetime.now(UTC) + timedelta(hours=1)) == {half: 4}
    assert store.unfinished(datetime.now(UTC) - timedelta(hours=1)) == {}
    store.delete(found)
    store.delete(found)
    assert list(store.objects()) == []
    assert (home / "acme" / "notes.txt").exists()


@settings(max_examples=200, derandomize=True)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_portions_hold_everything_once_within_the_bound(sizes: list[int], most: int) -> None:
    """Broken: a batch of references takes all memory, or a record is left out or done twice."""
    found = portions(sizes, most)
    assert [size for part in found for size in sizes[part]] == sizes
    for part in found:
        assert sum(sizes[part]) <= most or sum(1 for size in sizes[part] if size) == 1
    assert portions([0, 0, 0], 1) == [slice(0, 3)]


@pytest.mark.parametrize(
    "url", ["http://a/b", "file://host/x", "file://", "file:///", "folder", "s3://", "s3:///x", "s3://b/x?y"]
)
def test_what_is_no_store_is_refused_at_the_start(url: str) -> None:
    """Broken: a misspelt URL is found out when the first large document comes."""
    with pytest.raises(ValidationError):
        ObjectSettings(url=url)


def test_a_limit_that_no_record_can_reach_is_refused() -> None:
    """Broken: records between both limits are dead-lettered although a store is configured."""
    configured = ObjectSettings(url="file:///tmp/x", limit_bytes=2**24)
    with pytest.raises(ConfigurationError, match="HEADRACE_OBJECTS_LIMIT_BYTES"):
        store_of(configured, KafkaSettings())
    assert store_of(ObjectSettings(), KafkaSettings()) is None


def test_a_bucket_needs_both_halves_of_a_key() -> None:
    """Broken: half a key is found out when the first large document comes, or AWS's own variables add the rest."""
    with pytest.raises(ConfigurationError, match="HEADRACE_OBJECTS_S3_SECRET_ACCESS_KEY"):
        ObjectStore(ObjectSettings(url="s3://bucket/folder", s3_access_key_id="id"), lambda: OWNER)
