-- name: create
INSERT INTO api_key (key_hash, tenant, name) VALUES ($1, $2, $3);

-- name: revoke
UPDATE api_key SET revoked_at = now() WHERE tenant = $1 AND name = $2 AND revoked_at IS NULL;

-- name: authenticate
SELECT authenticate($1);
