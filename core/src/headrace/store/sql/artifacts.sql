-- name: put
-- Writing a version again changes no row.
INSERT INTO artifact (
    tenant, artifact_id, version, request_id, kind, title, mime_type, text, citations, provider, model, prompt,
    pipeline_id, pipeline_version, created_by
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT DO NOTHING;

-- name: get
-- The newest version, or the requested one ($3).
SELECT * FROM artifact
WHERE tenant = $1 AND artifact_id = $2 AND ($3::integer IS NULL OR version = $3)
ORDER BY version DESC
LIMIT 1;

-- name: by_request
SELECT * FROM artifact WHERE tenant = $1 AND request_id = $2 ORDER BY created_at, artifact_id, version;
