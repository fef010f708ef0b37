-- name: tables
-- Rows, dead rows, sizes and vacuums of a generation's tables ($1), by the statistics that PostgreSQL keeps.
SELECT s.relname AS name, s.n_live_tup AS rows, s.n_dead_tup AS dead, s.n_mod_since_analyze AS modified,
       pg_table_size(s.relid) AS bytes, greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
       greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at
FROM pg_stat_all_tables AS s
JOIN unnest($1::text[]) WITH ORDINALITY AS wanted (name, place) ON s.relid = to_regclass(wanted.name)
ORDER BY wanted.place;

-- name: indexes
SELECT c.relname AS name, t.relname AS on_table, m.amname AS kind, i.indisvalid AND i.indisready AS valid,
       pg_relation_size(c.oid) AS bytes, coalesce(c.reloptions, '{}') AS options, s.idx_scan AS scans
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_am AS m ON m.oid = c.relam
LEFT JOIN pg_stat_all_indexes AS s ON s.indexrelid = i.indexrelid
JOIN unnest($1::text[]) WITH ORDINALITY AS wanted (name, place) ON i.indrelid = to_regclass(wanted.name)
ORDER BY wanted.place, c.relname;

-- name: sample
-- Up to $3 vectors of the tenant ($1), beginning at a key ($2). Keys are hashes, so that these are a random sample.
SELECT vector_key, embedding::vector AS embedding FROM {vectors}
WHERE tenant = $1 AND vector_key >= $2
ORDER BY vector_key
LIMIT $3;

-- name: approximate
-- As a search reads them.
SELECT vector_key FROM ({ordered}) AS found LIMIT $3;

-- name: exact
-- Without the index, because of the + 0.
SELECT vector_key FROM {vectors}
WHERE tenant = $1
ORDER BY (embedding {operator} $2::vector::{type}) + 0
LIMIT $3;
