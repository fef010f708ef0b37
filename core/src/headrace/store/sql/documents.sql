-- name: get
-- Here and below, may_read leaves out what this transaction's reader may not read; see ADR 26.
SELECT document_id, version, deleted, content_hash, title, source, media_type, acl, attributes, pipeline_id,
       pipeline_version, request_id, history, metadata, model, generations, indexed_at,
       cardinality(chunk_ids) AS chunks
FROM document
WHERE tenant = $1 AND document_id = $2 AND may_read(acl);

-- name: states
SELECT document_id, version, deleted, request_id, generations
FROM document
WHERE tenant = $1 AND document_id = ANY ($2::text[]) AND may_read(acl);

-- name: by_request
SELECT document_id FROM document
WHERE tenant = $1 AND request_id = $2 AND may_read(acl)
ORDER BY document_id
LIMIT $3;

-- name: count
SELECT count(*) FILTER (WHERE NOT deleted) AS documents, count(*) FILTER (WHERE deleted) AS deleted,
       coalesce(sum(cardinality(chunk_ids)), 0)::bigint AS chunks
FROM document
WHERE tenant = $1 AND may_read(acl);

-- name: having
-- The live documents with all of these attributes ($2), after the ID $3, sorted by ID. having_attributes uses the index,
-- which row-level security prevents for a plain condition. The tenant is the transaction's.
SELECT d.document_id, d.version, d.title, d.source, d.attributes, d.request_id, d.indexed_at
FROM document AS d
JOIN having_attributes($2, NULL, 2147483647) AS h (document_id) ON h.document_id = d.document_id
WHERE d.tenant = $1 AND may_read(d.acl) AND ($3::text IS NULL OR d.document_id > $3)
ORDER BY d.document_id
LIMIT $4;
