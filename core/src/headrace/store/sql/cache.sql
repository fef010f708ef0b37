-- name: known
SELECT text_hash FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[]);

-- name: fetch
SELECT text_hash, embedding FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash = ANY ($3::bytea[]);

-- name: put
-- Sorted by key: two embedders that cache the same texts wait for each other and never in a circle.
INSERT INTO vector_cache (tenant, model, text_hash, embedding)
SELECT $1, $2, text_hash, embedding
FROM unnest($3::bytea[], $4::vector[]) AS given (text_hash, embedding)
ORDER BY text_hash
ON CONFLICT DO NOTHING;
