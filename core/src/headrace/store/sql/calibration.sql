-- name: texts
-- Passages from a chunk ID on; chunk IDs are hashes, so they are a random sample.
SELECT chunk_id, text FROM chunk WHERE tenant = $1 AND chunk_id >= $2 ORDER BY chunk_id LIMIT $3;

-- name: best_coverage
-- The highest share of the terms ($3), weighted by rarity, that one of the best passages has, other than those ($5) of
-- which the terms were taken.
WITH weighed AS MATERIALIZED (
    SELECT used, chosen, query FROM weigh_terms($2, $3, $4)
), best AS (
    SELECT m.chunk_id
    FROM weighed CROSS JOIN match_terms($2, weighed.used, weighed.chosen, weighed.query, $4, false, NULL) AS m
    WHERE m.chunk_id <> ALL ($5::uuid[])
    ORDER BY m.score DESC, m.chunk_id
    LIMIT $6
)
SELECT weighed.query, ARRAY(SELECT unnest(l.terms) INTERSECT SELECT unnest(weighed.used)) AS shared
FROM weighed CROSS JOIN best JOIN {lexical} AS l ON l.tenant = $1 AND l.chunk_id = best.chunk_id;

-- name: questions
SELECT language, vector FROM random_question WHERE generation = $1 ORDER BY number;

-- name: nearest
-- From the tenant's vectors, nearest first (legs.sql).
SELECT min(distance) FROM (SELECT distance FROM ({ordered}) AS o LIMIT $3::bigint) AS n;

-- name: known
SELECT EXISTS (SELECT FROM random_question WHERE generation = $1);

-- name: remember
INSERT INTO random_question (generation, number, language, vector)
SELECT $1, number, language, vector FROM unnest($2::integer[], $3::text[], $4::bytea[]) AS given (number, language, vector)
ON CONFLICT DO NOTHING;

-- name: keep
UPDATE search_statistics SET chance_words = $3, chance_unspaced = $4, chance_meaning = $5 WHERE tenant = $1 AND generation = $2;
