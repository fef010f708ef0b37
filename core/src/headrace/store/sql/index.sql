-- name: stored
-- The fence's rows for these documents ($2) of this tenant ($1). They are not locked: a write states the row that it was
-- planned for, and changes nothing if that row has changed.
SELECT document_id, version, content_hash, deleted, generations, chunk_ids
FROM document
WHERE tenant = $1 AND document_id = ANY ($2::text[]);

-- name: embedded
-- The keys of these chunks' ($2) vector (empty: none, on purpose) and lexical vector in this generation; NULL without a row.
SELECT chunk_id, vector_key, lexical_key
FROM (
    SELECT chunk_id, coalesce(vector_key, '') AS vector_key FROM {embedding}
    WHERE tenant = $1 AND chunk_id = ANY ($2::uuid[])
) AS e
FULL JOIN (SELECT chunk_id, lexical_key FROM {lexical} WHERE tenant = $1 AND chunk_id = ANY ($2::uuid[])) AS l
    USING (chunk_id);

-- name: known
-- Those of these keys ($2) that have a vector, in this generation or in the cache of its model ($3).
SELECT vector_key FROM {vectors} WHERE tenant = $1 AND vector_key = ANY ($2::bytea[])
UNION
SELECT text_hash FROM vector_cache WHERE tenant = $1 AND model = $3 AND text_hash = ANY ($2::bytea[]);

-- name: write_document
-- Writes one version: a new row, or an update of the row that the plan was made for (version $23 and generations $24,
-- NULL for a new document). Returns no row if another writer was faster.
INSERT INTO document AS stored (
    tenant, document_id, version, deleted, content_hash, generations, title, source, media_type, acl, attributes,
    pipeline_id, pipeline_version, request_id, history, metadata, model, chunk_ids, starts, ends,
    language, pages
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
ON CONFLICT (tenant, document_id) DO UPDATE SET
    version = excluded.version,
    deleted = excluded.deleted,
    content_hash = excluded.content_hash,
    generations = excluded.generations,
    title = excluded.title,
    source = excluded.source,
    media_type = excluded.media_type,
    acl = excluded.acl,
    attributes = excluded.attributes,
    pipeline_id = excluded.pipeline_id,
    pipeline_version = excluded.pipeline_version,
    request_id = excluded.request_id,
    history = excluded.history,
    metadata = excluded.metadata,
    model = excluded.model,
    chunk_ids = excluded.chunk_ids,
    starts = excluded.starts,
    ends = excluded.ends,
    language = excluded.language,
    pages = excluded.pages,
    indexed_at = now()
WHERE stored.version = $23 AND stored.generations = $24
RETURNING document_id;

-- name: delete_chunks
-- With their vectors in every generation; see the migrations.
SELECT delete_chunks($1);

-- name: insert_chunk
INSERT INTO chunk (tenant, chunk_id, document_id, section, text, text_hash, tokens)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: delete_embeddings
-- For chunks that stay but whose prepared text has changed (a title or a tag in the text template).
DELETE FROM {embedding} WHERE tenant = $1 AND chunk_id = ANY ($2::uuid[]) RETURNING vector_key;

-- name: drop_unused
-- Those of these vectors ($2) that no chunk refers to any more; see the migrations.
SELECT drop_unused_vectors($1, $2);

-- name: insert_vectors
-- Vectors in the batch. Sorted by key, so that two indexers that write the same texts cannot deadlock.
INSERT INTO {vectors} (tenant, vector_key, embedding)
SELECT $1, vector_key, embedding
FROM unnest($2::bytea[], $3::vector[]) AS given (vector_key, embedding)
ORDER BY vector_key
ON CONFLICT DO NOTHING;

-- name: insert_cached_vectors
-- Vectors that neither the batch nor this generation has, copied from the cache within the database.
INSERT INTO {vectors} (tenant, vector_key, embedding)
SELECT $1, text_hash, embedding
FROM vector_cache
WHERE tenant = $1 AND model = $3 AND text_hash = ANY ($2::bytea[])
ORDER BY text_hash
ON CONFLICT DO NOTHING;

-- name: insert_embeddings
-- An empty key means that the chunk is not embedded.
INSERT INTO {embedding} (tenant, chunk_id, vector_key)
SELECT $1, chunk_id, nullif(vector_key, '')
FROM unnest($2::uuid[], $3::bytea[]) AS given (chunk_id, vector_key)
ORDER BY vector_key;

-- name: delete_lexical
-- For chunks that stay but whose terms have changed (a new title).
DELETE FROM {lexical} WHERE tenant = $1 AND chunk_id = ANY ($2::uuid[]);

-- name: insert_lexical
INSERT INTO {lexical} (tenant, chunk_id, lexical_key, terms, weights) VALUES ($1, $2, $3, $4, $5);
