-- name: create
INSERT INTO api_key (key_hash, tenant, name, reader, acts_for_readers) VALUES ($1, $2, $3, $4, $5);

-- name: list
SELECT name, reader, acts_for_readers, created_at, revoked_at
FROM api_key
WHERE tenant = $1
ORDER BY created_at, name;

-- name: revoke
UPDATE api_key SET revoked_at = now() WHERE tenant = $1 AND name = $2 AND revoked_at IS NULL;

-- name: authenticate
SELECT tenant, reader, acts_for_readers FROM authenticate($1);
