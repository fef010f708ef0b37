"""The object store over a real S3 API: the same promises as over a folder, signatures checked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import ObjectSettings
from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import ConfigurationError, DependencyDown
from headrace.objects.claims import Claim, Claims
from headrace.objects.places import ObjectDamaged, ObjectGone, Place, folder_of
from headrace.objects.store import MARKER, ObjectStore
from headrace.payloads import SourceDocument
from headrace_local import artifacts
from headrace_testing.deployment import object_settings
from headrace_testing.s3 import S3Server, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CODEC = Codec(FixedIds())
OWNER = {"kafka_cluster": "c1", "topic_prefix": ""}
RECORD = "headrace.SourceDocument"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the module; each test has a folder of its own in the bucket."""
    jar = artifacts.s3proxy_jar(lambda _: None)
    with served(artifacts.java(), jar, tmp_path_factory.mktemp("s3")) as found:
        yield found


def configured(server: S3Server, folder: str, **values: Any) -> ObjectSettings:
    """Settings as a stage's environment has them."""
    return object_settings(server.settings(folder)).model_copy(update=values)


def store_at(server: S3Server, folder: str, owner: dict[str, str] | None = None, **values: Any) -> ObjectStore:
    """The store in that folder of the bucket."""
    return ObjectStore(configured(server, folder, **values), lambda: owner or OWNER)


def stored(server: S3Server, folder: str, text: str = "large", tenant: str = "acme") -> tuple[Claims, Claim]:
    """Check a payload in."""
    store = store_at(server, folder)
    store.begin()
    claims = Claims(CODEC, store, configured(server, folder), now=lambda: NOW)
    payload = SourceDocument("T", text, "text/plain", bytes(16))
    whole = Context(Trace("r", "default", 1, NOW), Change(tenant, "d", 1, Operation.UPSERT), payload)
    value, parcel = claims.check_in(whole, SourceDocument)
    asyncio.run(claims.store([parcel]))
    context, reference = CODEC.envelope(value, SourceDocument)
    assert reference is not None
    return claims, Claim(context, reference)


def fetched(claims: Claims, claim: Claim) -> Any:
    """Check a payload out."""
    return asyncio.run(claims.check_out([claim], SourceDocument))[0]


def test_a_payload_comes_back_through_a_bucket(server: S3Server) -> None:
    """Broken: what works over a folder fails over S3, or lands beside the folder that was named."""
    text = "Ein großer Text. 큰 문서. " * 100_000
    claims, claim = stored(server, "whole", text, tenant="kunde größer")
    assert fetched(claims, claim).payload.text == text
    key = claim.reference.uri.removeprefix("claim:")
    held = server.folder / "whole" / key
    assert hashlib.sha256(held.read_bytes()).digest() == claim.reference.sha256
    assert (server.folder / "whole" / MARKER).exists()
    tenant = claim.context.change.tenant
    assert store_at(server, "whole").read(claim.reference, tenant, RECORD) == held.read_bytes()
    assert stored(server, "whole", text, tenant)[1].reference == claim.reference


def test_what_is_gone_or_damaged_is_told_from_a_store_that_is_not_there(server: S3Server) -> None:
    """Broken: a wrong bucket makes dead letters of all large documents, or a lost object stops the stage."""
    claims, claim = stored(server, "broken")
    held = server.folder / "broken" / claim.reference.uri.removeprefix("claim:")
    whole = held.read_bytes()
    held.write_bytes(whole[:-1] + b"\x01")
    assert isinstance(fetched(claims, claim), ObjectDamaged)
    held.write_bytes(whole + b"\x01")
    assert isinstance(fetched(claims, claim), ObjectDamaged)
    held.unlink()
    assert isinstance(fetched(claims, claim), ObjectGone)
    elsewhere = [configured(server, "empty"), configured(server, "x", url="s3://no-such-bucket/x")]
    for settings in elsewhere:
        with pytest.raises(DependencyDown, match=MARKER):
            fetched(Claims(CODEC, ObjectStore(settings, lambda: OWNER), settings), claim)


def test_a_refused_key_and_a_dead_service_pause(server: S3Server) -> None:
    """Broken: an expired key or an outage costs dead letters."""
    _, claim = stored(server, "refused")
    wrong = configured(server, "refused", s3_secret_access_key=SecretStr("another"))
    with pytest.raises(ConfigurationError, match="access key"):
        fetched(Claims(CODEC, ObjectStore(wrong, lambda: OWNER), wrong), claim)
    dead = configured(server, "refused", s3_endpoint="http://127.0.0.1:9", connect_timeout_s=1, timeout_s=2)
    claims = Claims(CODEC, ObjectStore(dead, lambda: OWNER), dead)
    with pytest.raises(DependencyDown) as caught:
        fetched(claims, claim)
    assert caught.value.dependency == "object-store"
    _, parcel = claims.check_in(
        claim.context.with_payload(SourceDocument("T", "t", "text/plain", bytes(16))), SourceDocument
    )
    with pytest.raises(DependencyDown):
        asyncio.run(claims.store([parcel]))


def test_objects_are_listed_deleted_and_owned(server: S3Server) -> None:
    """Broken: garbage in a bucket is not found, others' objects go with it, or another deployment's do."""
    stored(server, "listed", "one")
    stored(server, "listed", "two", tenant="other")
    (server.folder / "listed" / "notes").write_text("not ours")
    store = store_at(server, "listed")
    found = sorted(store.objects(), key=lambda one: one[0].folder)
    assert [(place.folder, place.day) for place, _ in found] == [
        ("acme", date(2026, 1, 2)), ("other", date(2026, 1, 2)),
    ]  # fmt: skip
    gone = Place(folder_of("acme"), date(2026, 1, 2), bytes(32))
    store.delete([found[0][0], gone])
    assert [place.folder for place, _ in store.objects()] == ["other"]
    assert (server.folder / "listed" / "notes").exists()
    other = store_at(server, "listed", {"kafka_cluster": "c2", "topic_prefix": ""})
    with pytest.raises(ConfigurationError, match="another deployment"):
        other.begin()
    assert store._mark(OWNER) is False, "the service takes no second marker, were there two at once"
