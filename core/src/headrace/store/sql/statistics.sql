-- name: lock
SELECT pg_try_advisory_xact_lock(hashtextextended('headrace.statistics ' || $1, 0));

-- name: count
SELECT count(*) FROM {lexical} WHERE tenant = $1;

-- name: counted
SELECT passages FROM search_statistics WHERE tenant = $1 AND generation = $2;

-- name: begin
-- Readers see the frequencies from before until the commit.
-- The mean similarity of n passages with each other is (n * |mean vector|^2 - 1) / (n - 1), for vectors of length 1.
WITH outdated AS (
    DELETE FROM term_frequency WHERE tenant = $1 AND generation = $2
), sampled AS (
    SELECT embedding FROM {vectors} WHERE tenant = $1 AND vector_key >= $4 ORDER BY vector_key LIMIT $5
), mean AS (
    SELECT count(*) AS passages, avg(l2_normalize(embedding)) AS vector FROM sampled
)
INSERT INTO search_statistics (tenant, generation, passages, unrelated)
SELECT $1, $2, $3, CASE WHEN passages > 1 THEN (passages * -(vector <#> vector) - 1) / (passages - 1) ELSE 0 END
FROM mean
ON CONFLICT (tenant, generation) DO UPDATE SET
    passages = excluded.passages, unrelated = excluded.unrelated, refreshed_at = now();

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

-- name: sweep
-- See sweep_vectors in the migrations.
SELECT sweep_vectors($1, $2);
