-- name: get
SELECT document_id, version, deleted, content_hash, title, source, media_type, acl, attributes, pipeline_id,
       pipeline_version, request_id, history, metadata, model, generations, indexed_at,
       cardinality(chunk_ids) AS chunks
FROM document
WHERE tenant = $1 AND document_id = $2;

-- name: states
SELECT document_id, version, deleted, request_id FROM document WHERE tenant = $1 AND document_id = ANY ($2::text[]);

-- name: count
SELECT count(*) FILTER (WHERE NOT deleted) AS documents, count(*) FILTER (WHERE deleted) AS deleted,
       coalesce(sum(cardinality(chunk_ids)), 0)::bigint AS chunks
FROM document
WHERE tenant = $1;
