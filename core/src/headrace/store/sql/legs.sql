-- The statement of both legs, and what it is made of (headrace.store.search).
-- The first six parameters of the statement: tenant, query vector, depth of a leg, generation, terms of the query,
-- candidates by terms. $7 are documents to which the search is narrowed, or NULL; $8 how many chunks of one text are taken.
-- {condition} is an SQL boolean over the aliases d (document) and c (chunk); its parameters follow. may_read leaves out what
-- this transaction's reader may not read (ADR 26).

-- name: ordered
-- The tenant's vectors, nearest first: read one by one, as far as they are needed.
SELECT v.vector_key, v.embedding {operator} $2::vector::{type} AS distance
FROM {vectors} AS v
WHERE v.tenant = $1 AND $2::vector IS NOT NULL
ORDER BY v.embedding {operator} $2::vector::{type}
OFFSET 0

-- name: ordered_exact
-- The same for a small tenant: all of its vectors are sorted (because of the + 0, not through the index).
SELECT v.vector_key, v.embedding {operator} $2::vector::{type} AS distance
FROM {vectors} AS v
WHERE v.tenant = $1 AND $2::vector IS NOT NULL
ORDER BY (v.embedding {operator} $2::vector::{type}) + 0
OFFSET 0

-- name: ordered_binary
-- By bits first: ten times as many as needed, ranked again by the vectors themselves.
SELECT coarse.vector_key, coarse.embedding {operator} $2::vector::{type} AS distance
FROM (
    SELECT v.vector_key, v.embedding
    FROM {vectors} AS v
    WHERE v.tenant = $1 AND $2::vector IS NOT NULL
    ORDER BY {indexed} <~> binary_quantize($2::vector::{type})
    LIMIT $3 * 10
) AS coarse
ORDER BY distance
OFFSET 0

-- name: nearest
-- Through the index: the nearest texts that have a chunk that meets the condition, and these chunks. The texts have no
-- ORDER BY of their own: with it, the planner would not know that only the first of `ordered` are needed.
SELECT own.chunk_id, texts.distance
FROM (
    SELECT ordered.vector_key, ordered.distance
    FROM ({ordered}) AS ordered
    WHERE EXISTS (
        SELECT FROM {embedding} AS e
        JOIN chunk AS c ON c.tenant = $1 AND c.chunk_id = e.chunk_id
        JOIN document AS d ON d.tenant = $1 AND d.document_id = c.document_id
        WHERE e.tenant = $1 AND e.vector_key = ordered.vector_key AND {condition} AND may_read(d.acl)
        OFFSET 0
    )
    LIMIT $3
) AS texts
CROSS JOIN LATERAL (
    SELECT e.chunk_id
    FROM {embedding} AS e
    JOIN chunk AS c ON c.tenant = $1 AND c.chunk_id = e.chunk_id
    JOIN document AS d ON d.tenant = $1 AND d.document_id = c.document_id
    WHERE e.tenant = $1 AND e.vector_key = texts.vector_key AND {condition} AND may_read(d.acl)
    ORDER BY e.chunk_id
    LIMIT $8
) AS own
ORDER BY texts.distance, own.chunk_id
LIMIT $3

-- name: nearest_exact
-- Without the index (because of the + 0): every chunk of the documents that meet the condition. For filters that are so
-- narrow that the index would reach its limit and still miss rows.
SELECT e.chunk_id, v.embedding {operator} $2::vector::{type} AS distance
FROM document AS d
CROSS JOIN LATERAL (SELECT DISTINCT unnest(d.chunk_ids) AS chunk_id) AS own
JOIN chunk AS c ON c.tenant = $1 AND c.chunk_id = own.chunk_id
JOIN {embedding} AS e ON e.tenant = $1 AND e.chunk_id = c.chunk_id
JOIN {vectors} AS v ON v.tenant = $1 AND v.vector_key = e.vector_key
WHERE d.tenant = $1 AND $2::vector IS NOT NULL AND ($7::text[] IS NULL OR d.document_id = ANY ($7))
  AND {condition} AND may_read(d.acl)
ORDER BY (v.embedding {operator} $2::vector::{type}) + 0, e.chunk_id
LIMIT greatest($3::bigint, $8::bigint)

-- name: legs
-- What either leg finds, with its place on each (NULL: not among the first $3) and with both scores.
-- `unrelated` is the similarity of unrelated passages of the tenant; `chance_words`, `chance_unspaced` and `chance_meaning`
-- are what random questions find. `query` has the rarities of the terms; the best chunk of each leg has it.
WITH weighed AS MATERIALIZED (
    SELECT used, chosen, query FROM weigh_terms($4, $5, $6)
), nearest AS MATERIALIZED (
    SELECT chunk_id, row_number() OVER () AS place FROM ({nearest}) AS n
), matching AS MATERIALIZED (
    SELECT chunk_id, row_number() OVER () AS place
    FROM (
        SELECT found.chunk_id
        FROM (
            SELECT m.chunk_id, m.score
            FROM weighed CROSS JOIN match_terms($4, weighed.used, weighed.chosen, weighed.query, $6, {wide}, $7) AS m
            ORDER BY m.score DESC, m.chunk_id
            OFFSET 0
        ) AS found
        CROSS JOIN LATERAL (
            SELECT FROM chunk AS c JOIN document AS d ON d.tenant = $1 AND d.document_id = c.document_id
            WHERE c.tenant = $1 AND c.chunk_id = found.chunk_id AND {condition} AND may_read(d.acl)
            OFFSET 0
        ) AS own
        ORDER BY found.score DESC, found.chunk_id
        LIMIT $3
    ) AS m
), found AS MATERIALIZED (  -- a column of its own: below a policy, an index is not used with the result of COALESCE
    SELECT chunk_id, nearest.place AS dense, matching.place AS lexical FROM nearest FULL JOIN matching USING (chunk_id)
)
SELECT found.chunk_id, c.document_id, found.dense, found.lexical,
       v.embedding {operator} $2::vector::{type} AS distance, -(l.weights <#> weighed.query) AS score,
       CASE WHEN 1 IN (found.dense, found.lexical) THEN weighed.query END AS query,
       s.unrelated, s.chance_words, s.chance_unspaced, s.chance_meaning
FROM found CROSS JOIN weighed
JOIN LATERAL (SELECT document_id FROM chunk WHERE tenant = $1 AND chunk_id = found.chunk_id OFFSET 0) AS c ON TRUE
LEFT JOIN search_statistics AS s ON s.tenant = $1 AND s.generation = $4
LEFT JOIN LATERAL (
    SELECT v.embedding FROM {embedding} AS e JOIN {vectors} AS v ON v.tenant = $1 AND v.vector_key = e.vector_key
    WHERE e.tenant = $1 AND e.chunk_id = found.chunk_id
    OFFSET 0
) AS v ON TRUE
LEFT JOIN LATERAL (
    SELECT weights FROM {lexical} WHERE tenant = $1 AND chunk_id = found.chunk_id
    OFFSET 0
) AS l ON TRUE;

-- name: having
-- The documents with these attributes; see having_attributes in the migrations. The tenant is the transaction's.
SELECT having_attributes($1, $2, $3) AS document_id;

-- name: readable
-- The documents that this transaction's reader may read; see readable_documents in the migrations.
SELECT readable_documents(NULL, $1) AS document_id;

-- name: meeting
-- The documents that meet a condition, up to $3, among the first $2 of the tenant.
SELECT d.document_id
FROM (SELECT * FROM document WHERE tenant = $1 LIMIT $2) AS d
WHERE NOT d.deleted AND {condition} AND may_read(d.acl)
LIMIT $3;

-- name: fewer
-- Whether the tenant has fewer documents than $2.
SELECT count(*) < $2 FROM (SELECT FROM document WHERE tenant = $1 LIMIT $2) AS d;
