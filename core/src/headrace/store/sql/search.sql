-- name: prepare
-- Settings of this transaction only. The plan depends on the tenant: a small one is scanned exactly, a large one uses
-- HNSW. The index continues until it has found enough rows of this tenant, nearest first.
SELECT set_config('hnsw.ef_search', $1, true),
       set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: having
-- The documents with these attributes; see having_attributes in the migrations. The tenant is the transaction's.
SELECT having_attributes($1, $2, $3);

-- name: nearest
-- With the HNSW index, filtered while it is read.
SELECT e.chunk_id, e.embedding {operator} $2 AS value
FROM {embedding} AS e
WHERE e.tenant = $1
  AND e.embedding IS NOT NULL
  AND ($4::jsonb IS NULL OR EXISTS (
        SELECT FROM chunk AS c JOIN document AS d ON d.tenant = c.tenant AND d.document_id = c.document_id
        WHERE c.tenant = $1 AND c.chunk_id = e.chunk_id AND d.attributes @> $4))
ORDER BY e.embedding {operator} $2
LIMIT $3;

-- name: nearest_exact
-- Scans the chunks of the documents that match the filters, without the index (because of the + 0). It is for filters
-- that are so narrow that the index would reach its limit and still miss rows.
SELECT e.chunk_id, e.embedding {operator} $2 AS value
FROM (
    SELECT DISTINCT unnest(chunk_ids) AS chunk_id
    FROM document
    WHERE tenant = $1
      AND ($4::jsonb IS NULL OR attributes @> $4)
      AND ($5::text[] IS NULL OR document_id = ANY ($5))
) AS chosen
JOIN {embedding} AS e ON e.tenant = $1 AND e.chunk_id = chosen.chunk_id AND e.embedding IS NOT NULL
ORDER BY (e.embedding {operator} $2) + 0, e.chunk_id
LIMIT $3;

-- name: matching
-- By terms; see match_terms in the migrations. The tenant is the transaction's.
SELECT chunk_id, score FROM match_terms($1, $2, $3, $4, $5, $6);

-- name: both
-- The distance and BM25's score of these chunks ($6), whichever leg found them, and the similarity of unrelated ones.
SELECT e.chunk_id, e.embedding {operator} $2 AS distance, -(l.weights <#> weighed.query) AS score,
       (SELECT unrelated FROM search_statistics WHERE tenant = $1 AND generation = $3) AS unrelated
FROM weigh_terms($3, $4, $5) AS weighed
CROSS JOIN unnest($6::uuid[]) AS found (chunk_id)
JOIN {embedding} AS e ON e.tenant = $1 AND e.chunk_id = found.chunk_id
LEFT JOIN {lexical} AS l ON l.tenant = $1 AND l.chunk_id = found.chunk_id;

-- name: hits
SELECT c.chunk_id, c.document_id, c.section, c.text, d.title, d.version, d.source, d.attributes, d.language, p.ordinal,
       d.starts[p.ordinal] AS start, d.ends[p.ordinal] AS "end",
       CASE WHEN d.pages <> '{}' THEN width_bucket(d.starts[p.ordinal], d.pages) END AS page
FROM chunk AS c
JOIN document AS d ON d.tenant = c.tenant AND d.document_id = c.document_id
CROSS JOIN LATERAL (SELECT array_position(d.chunk_ids, c.chunk_id) AS ordinal) AS p
WHERE c.tenant = $1 AND c.chunk_id = ANY ($2::uuid[]);

-- name: weights
-- The query's side and the passage's side of the scores of these chunks ($5), to explain them.
SELECT l.chunk_id, weighed.query, l.weights AS passage
FROM weigh_terms($2, $3, $4) AS weighed
JOIN {lexical} AS l ON l.tenant = $1 AND l.chunk_id = ANY ($5::uuid[]);
