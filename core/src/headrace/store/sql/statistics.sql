-- name: lock
SELECT pg_try_advisory_xact_lock(hashtextextended('headrace.statistics ' || $1, 0));

-- name: count
SELECT count(*) FROM {lexical} WHERE tenant = $1;

-- name: counted
SELECT passages FROM lexical_statistics WHERE tenant = $1 AND generation = $2;

-- name: begin
-- Readers see the frequencies from before until the commit.
WITH outdated AS (DELETE FROM term_frequency WHERE tenant = $1 AND generation = $2)
INSERT INTO lexical_statistics (tenant, generation, passages) VALUES ($1, $2, $3)
ON CONFLICT (tenant, generation) DO UPDATE SET passages = excluded.passages, refreshed_at = now();

-- name: estimate
-- From at most $4 passages of all $5, beginning with the chunk ID $3. Terms in a single one of them get no row: they are
-- rare in any case, and most terms are of this kind.
WITH sampled AS MATERIALIZED (
    SELECT terms FROM {lexical} WHERE tenant = $1 AND chunk_id >= $3 ORDER BY chunk_id LIMIT $4
), size AS (
    SELECT greatest(count(*), 1) AS passages FROM sampled
)
INSERT INTO term_frequency (tenant, generation, term, passages)
SELECT $1, $2, term, count(*) * $5::bigint / (SELECT passages FROM size)::real
FROM sampled CROSS JOIN LATERAL unnest(terms) AS term
GROUP BY term
HAVING count(*) > 1;
