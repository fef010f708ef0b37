"""``headrace keys`` on a real store: what it creates is what the gateway finds."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from headrace.access.readers import EVERY_DOCUMENT, UNNAMED, Reader
from headrace.store import keys
from headrace.store.pool import opened_pool
from headrace_cli.app import app
from headrace_cli.exit_codes import ExitCode
from headrace_testing.postgres import StoreSchema

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)


@pytest.fixture(autouse=True)
def store(store_schema: StoreSchema, monkeypatch: pytest.MonkeyPatch) -> StoreSchema:
    """The variables of the owner."""
    monkeypatch.setenv("HEADRACE_STORE_SCHEMA_NAME", store_schema.name)
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_POSTGRES_DSN", store_schema.server.dsn)
    return store_schema


def run(*arguments: str, code: int = ExitCode.OK) -> str:
    """Run the command for the tenant acme; return what it printed."""
    found = CliRunner().invoke(app, ["keys", *arguments, "--tenant", "acme"])
    assert found.exit_code == code, found.output
    return found.stdout if code == ExitCode.OK else found.stderr


def owner_of(store: StoreSchema, key: str) -> keys.KeyOwner | None:
    """Whom the gateway takes the key for."""

    async def ask() -> keys.KeyOwner | None:
        async with opened_pool(store.settings()) as pool:
            return await keys.authenticate(pool, key)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("options", "reader"),
    [
        ((), UNNAMED),
        (("--user", "김민수", "--group", "재무팀", "--group", "b", "--project", "p"),
         Reader.named("김민수", ["재무팀", "b"], ["p"])),
        (("--group", "b"), Reader.named(None, ["b"])),
        (("--every-document",), EVERY_DOCUMENT),
        (("--acts-for-readers",), None),
    ],
)  # fmt: skip
def test_a_key_reads_for_whom_it_was_created(
    store: StoreSchema, options: tuple[str, ...], reader: Reader | None
) -> None:
    """Broken: a key reads for somebody else than the operator said."""
    made = json.loads(run("create", "k", *options, "--json"))
    assert owner_of(store, made["key"]) == keys.KeyOwner("acme", reader)
    assert made["reader"] == ([] if reader is None else list(reader.names))
    (listed,) = json.loads(run("list", "--json"))
    assert (listed["name"], listed["reader"], listed["acts_for_readers"]) == ("k", made["reader"], reader is None)
    assert made["key"] not in json.dumps(listed)
    assert run("create", "shown", *options).strip().startswith("hr_")
    assert "shown" in run("list")


def test_a_revoked_key_is_unknown(store: StoreSchema) -> None:
    """Broken: a key cannot be taken back by its name."""
    key = json.loads(run("create", "k", "--json"))["key"]
    assert "1 revoked" in run("revoke", "k")
    assert owner_of(store, key) is None
    assert "no valid key 'k'" in run("revoke", "k", code=ExitCode.NOT_FOUND)


@pytest.mark.parametrize(
    "options",
    [
        ("--user", "ann", "--every-document"),
        ("--group", "a", "--acts-for-readers"),
        ("--every-document", "--acts-for-readers"),
        ("--user", ""),
        ("--user", "a\nb"),
        ("--user", "x" * 256),
    ],
)
def test_a_reader_that_cannot_be_is_refused(options: tuple[str, ...]) -> None:
    """Broken: a key is created that reads for nobody, or for more than the operator meant."""
    run("create", "k", *options, code=ExitCode.USAGE)
    assert json.loads(run("list", "--json")) == []
