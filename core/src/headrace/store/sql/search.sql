-- name: prepare
-- Settings of this transaction only. The plan depends on the tenant: a small one is scanned exactly, a large one uses
-- HNSW or IVFFlat. The index continues until it has found enough rows of this tenant, nearest first (IVFFlat: nearly).
-- Returns whether the reader may read less than the whole tenant, and how many passages of the generation ($3) it has.
SELECT NOT reads_every_document() AND tenant_restricts() AS restricted,
       (SELECT passages FROM search_statistics WHERE tenant = current_tenant() AND generation = $3) AS passages,
       set_config('hnsw.ef_search', $1, true),
       set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('ivfflat.probes', $2, true),
       set_config('ivfflat.iterative_scan', 'relaxed_order', true),
       set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: hits
-- The chunks ($2) with their documents; `complete`: whether the generation ($3) has all of the document's version.
SELECT c.chunk_id, c.document_id, c.section, c.text, d.title, d.version, d.source, d.attributes, d.language, p.ordinal,
       $3 = ANY (d.generations) AS complete,
       d.starts[p.ordinal] AS start, d.ends[p.ordinal] AS "end",
       CASE WHEN d.pages <> '{}' THEN width_bucket(d.starts[p.ordinal], d.pages) END AS page
FROM chunk AS c
JOIN document AS d ON d.tenant = c.tenant AND d.document_id = c.document_id
CROSS JOIN LATERAL (SELECT array_position(d.chunk_ids, c.chunk_id) AS ordinal) AS p
WHERE c.tenant = $1 AND c.chunk_id = ANY ($2::uuid[]) AND may_read(d.acl);

-- name: weights
-- The query's side and the passage's side of the scores of these chunks ($5), to explain them.
SELECT l.chunk_id, weighed.query, l.weights AS passage
FROM weigh_terms($2, $3, $4) AS weighed
JOIN {lexical} AS l ON l.tenant = $1 AND l.chunk_id = ANY ($5::uuid[]);
