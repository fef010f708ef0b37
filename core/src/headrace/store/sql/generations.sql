-- name: create
-- The tables of one generation; the caller has checked the name ($1). $2 is the type of the vectors.
SELECT create_dense($1, $2), create_lexical('lexical_' || $1),
       let_sql_readers_of($1);

-- name: index
-- {indexed} and {operators} come from the generation's storage and distance.
CREATE INDEX {vectors}_nearest ON {vectors} USING hnsw ({indexed} {operators});

-- name: register
INSERT INTO generation (name, model, dimensions, distance, template, passage_prompt, over_long, analyzer, storage, embedder_url)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (name) DO NOTHING
RETURNING name;

-- name: get
SELECT name, model, dimensions, distance, state, template, passage_prompt, over_long, analyzer, storage, embedder_url,
       ef_search, probes
FROM generation WHERE name = $1;

-- name: active
SELECT name, model, dimensions, distance, state, template, passage_prompt, over_long, analyzer, storage, embedder_url,
       ef_search, probes
FROM generation WHERE state = 'active';

-- name: list
SELECT name, model, dimensions, distance, state, template, passage_prompt, over_long, analyzer, storage, embedder_url,
       ef_search, probes
FROM generation WHERE state <> 'dropped' ORDER BY created_at, name;

-- name: lock
-- One switch at a time; readers do not wait.
LOCK TABLE generation IN SHARE ROW EXCLUSIVE MODE;

-- name: may_switch
SELECT has_table_privilege('generation', 'UPDATE');

-- name: retire_active
UPDATE generation SET state = 'retired', changed_at = now() WHERE state = 'active' AND name <> $1;

-- name: point_views
-- The views for readers with SQL show the active generation.
SELECT point_views($1);

-- name: activate
UPDATE generation SET state = 'active', changed_at = CASE state WHEN 'active' THEN changed_at ELSE now() END
WHERE name = $1 AND state NOT IN ('dropping', 'dropped')
RETURNING name;
