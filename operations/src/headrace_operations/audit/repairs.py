"""The commands that repair the audit's findings."""

from __future__ import annotations

from shlex import quote

from headrace.topology.stages import EMBEDDER
from headrace_operations.audit.model import Key, Target


def _selection(key: Key) -> str:
    return f"--tenant {quote(key.tenant)} --document {quote(key.document_id)}"


def replay(stage: str, key: Key) -> str:
    """Return the command to replay the document through a stage that all generations share."""
    return f"headrace replay start --stage {stage} {_selection(key)}"


def embed(key: Key, generation: str) -> str:
    """Return the command to replay the document through the generation's embedder."""
    return f"{replay(EMBEDDER.name, key)} --into {quote(generation)}"


def reset(key: Key, generation: str) -> str:
    """Return the command to remove the document's rows, so that a replay of the same version writes them again."""
    return f"headrace audit {_selection(key)} --generation {quote(generation)} --reset"


def rewrite(key: Key, target: Target, *, deleted: bool = False) -> tuple[str, ...]:
    """Return the commands to write all rows of a stored version again; a replay alone would find nothing to do.

    The reset removes the vectors of all generations, so each generation that is kept fresh is filled again.
    """
    again = () if deleted else tuple(embed(key, generation) for generation in target.fresh)
    return (reset(key, target.generation), *again)


def redrive(stage: str, key: Key) -> str:
    """Return the command to redrive the document's open dead letters of a stage."""
    return f"headrace dlq redrive --stage {stage} {_selection(key)}"


def delete(key: Key) -> str:
    """Return the command to delete the document by a change event; it needs an API key of the tenant."""
    return f"headrace delete {quote(key.document_id)}"


def ingest(key: Key, above: int) -> str:
    """Return the command to send the document again from its source, with a version higher than all known ones."""
    return f"headrace ingest FILE  # document {key.document_id} with a version above {above}"


def delete_vectors(tenant: str, generation: str, chunk_id: str) -> str:
    """Return the SQL to delete vectors that belong to no document, because no command can select them."""
    return _psql(tenant, f"embedding_{generation}", f"chunk_id = '{chunk_id}'")


def delete_cached(tenant: str, model: str, text_hash: str) -> str:
    """Return the SQL to delete a cached vector; the text is embedded again when it is next needed."""
    return _psql(tenant, "vector_cache", f"model = {_literal(model)} AND text_hash = '\\x{text_hash}'")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _psql(tenant: str, table: str, which: str) -> str:
    name = _literal(tenant)
    statements = f"SET headrace.tenant = {name}; DELETE FROM {table} WHERE tenant = {name} AND {which}"  # noqa: S608  # shown, never run
    return f"PGOPTIONS='-c search_path=headrace,public' psql \"$HEADRACE_STORE_DSN\" -c {quote(statements)}"
