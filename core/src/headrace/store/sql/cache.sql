-- name: known
SELECT text_hash FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[]);

-- name: known_since
-- As above, with whether each is to be touched: it was last touched more than $4 days ago.
SELECT text_hash, last_used < current_date - $4::integer AS stale
FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[]);

-- name: touch
-- Those that are still there. Locked by key: two that touch the same wait for each other and never in a circle.
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
-- Rows of this tenant above $2, of all models together; no more than $3 are counted.
SELECT greatest(count(*) - $2::bigint, 0)
FROM (SELECT FROM vector_cache WHERE tenant = $1 LIMIT $2::bigint + $3::bigint) AS counted;

-- name: evict
-- The longest unused ($2 of them), none that was used within $3 days. What somebody touches now is passed over.
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
-- Sorted by key: two embedders that cache the same texts wait for each other and never in a circle.
INSERT INTO vector_cache (tenant, model, text_hash, embedding)
SELECT $1, $2, text_hash, embedding
FROM unnest($3::bytea[], $4::vector[]) AS given (text_hash, embedding)
ORDER BY text_hash
ON CONFLICT DO NOTHING;

-- name: cached
SELECT count(*) FROM vector_cache WHERE tenant = $1 AND model = $2;

-- name: some
-- No more than $3 of them, whichever.
SELECT text_hash FROM vector_cache WHERE tenant = $1 AND model = $2 LIMIT $3;

-- name: forget
-- Locked by key, as touch does it: the two wait for each other and never in a circle.
DELETE FROM vector_cache AS cached
USING (
    SELECT text_hash FROM vector_cache
    WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[])
    ORDER BY text_hash
    FOR UPDATE
) AS locked
WHERE cached.tenant = $1 AND cached.model = $2 AND cached.text_hash = locked.text_hash;
