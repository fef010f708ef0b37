-- name: known
SELECT text_hash FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[]);

-- name: known_since
-- As above, and whether each must be touched because it was last touched more than $4 days ago.
SELECT text_hash, last_used < current_date - $4::integer AS stale
FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[]);

-- name: touch
-- Returns those that still exist. Locked in order of the key, so that two transactions cannot deadlock.
UPDATE vector_cache AS cached SET last_used = current_date
FROM (
    SELECT text_hash FROM vector_cache
    WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[])
    ORDER BY text_hash
    FOR NO KEY UPDATE
) AS locked
WHERE cached.tenant = $1 AND cached.model = $2 AND cached.text_hash = locked.text_hash
RETURNING cached.text_hash;

-- name: surplus
-- Number of this tenant's rows above $2, over all models, counted up to $3.
SELECT greatest(count(*) - $2::bigint, 0)
FROM (SELECT FROM vector_cache WHERE tenant = $1 LIMIT $2::bigint + $3::bigint) AS counted;

-- name: evict
-- The $2 least recently used rows, except those used within $3 days. Rows that are being touched are skipped.
DELETE FROM vector_cache
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM vector_cache
    WHERE tenant = $1 AND last_used < current_date - $3::integer
    ORDER BY last_used
    LIMIT $2
    FOR UPDATE SKIP LOCKED
));

-- name: fetch
SELECT text_hash, embedding FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[]);

-- name: put
-- Sorted by key, so that two embedders that cache the same texts cannot deadlock.
INSERT INTO vector_cache (tenant, model, text_hash, embedding)
SELECT $1, $2, text_hash, embedding
FROM unnest($3::bytea[], $4::vector[]) AS given (text_hash, embedding)
ORDER BY text_hash
ON CONFLICT DO NOTHING;

-- name: cached
SELECT count(*) FROM vector_cache WHERE tenant = $1 AND model = $2;

-- name: some
-- At most $3 of them, in any order.
SELECT text_hash FROM vector_cache WHERE tenant = $1 AND model = $2 LIMIT $3;

-- name: forget
-- Locked in order of the key, as in touch, so that the two cannot deadlock.
DELETE FROM vector_cache AS cached
USING (
    SELECT text_hash FROM vector_cache
    WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[])
    ORDER BY text_hash
    FOR UPDATE
) AS locked
WHERE cached.tenant = $1 AND cached.model = $2 AND cached.text_hash = locked.text_hash;
