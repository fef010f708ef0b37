-- name: indexes
-- The indexes of a generation's dense vectors: the one in use, and one that is being built or was left behind.
SELECT c.relname AS name, m.amname AS kind, i.indisvalid AND i.indisready AS valid,
       pg_relation_size(c.oid) AS bytes, coalesce(c.reloptions, '{}') AS options
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_am AS m ON m.oid = c.relam
WHERE i.indrelid = to_regclass($1) AND c.relname IN ($2, $3)
ORDER BY c.relname;

-- name: build_progress
-- Of an index of this table that is being built now; phases and blocks as pgvector reports them.
SELECT index_relid::regclass::text AS name, phase, blocks_done, blocks_total, tuples_done, tuples_total
FROM pg_stat_progress_create_index
WHERE relid = to_regclass($1) AND datname = current_database();

-- name: rows
-- The estimate of the planner, or the number of rows if the table was never analysed.
SELECT CASE WHEN reltuples < 0 OR relpages = 0 THEN NULL ELSE reltuples::bigint END
FROM pg_class WHERE oid = to_regclass($1);

-- name: create
-- {name}, {kind} and {options} are made by Headrace, the rest comes from the generation.
CREATE INDEX CONCURRENTLY {name} ON {vectors} USING {kind} ({indexed} {operators}) WITH ({options});

-- name: tune
UPDATE generation SET ef_search = coalesce($2, ef_search), probes = coalesce($3, probes) WHERE name = $1;

-- name: drop
DROP INDEX CONCURRENTLY IF EXISTS {name};

-- name: rename
ALTER INDEX {name} RENAME TO {target};
