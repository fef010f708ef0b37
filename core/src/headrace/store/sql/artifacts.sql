-- name: put
-- Writing a version again changes no row.
INSERT INTO artifact (
    tenant, artifact_id, version, request_id, kind, title, mime_type, text, citations, provider, model, prompt,
    pipeline_id, pipeline_version, created_by, reader, sources
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT DO NOTHING;

-- name: get
-- The newest version, or the requested one ($3), if this transaction's reader may read it; see ADR 26.
SELECT a.*
FROM artifact AS a
WHERE a.tenant = $1 AND a.artifact_id = $2 AND ($3::integer IS NULL OR a.version = $3) AND may_read_artifact(a)
ORDER BY a.version DESC
LIMIT 1;

-- name: by_request
SELECT a.*
FROM artifact AS a
WHERE a.tenant = $1 AND a.request_id = $2 AND may_read_artifact(a)
ORDER BY a.created_at, a.artifact_id, a.version;
