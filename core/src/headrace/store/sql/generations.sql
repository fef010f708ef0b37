-- name: create
-- The vectors of one generation. Deleting a chunk deletes its vectors in every generation.
-- vector_key is the hash of the prepared text. An empty key without a vector means that the chunk is not embedded.
-- {embedding} is the table's checked name, {dimensions} and {operators} come from the generation.
CREATE TABLE {embedding} (
    tenant     text NOT NULL,
    chunk_id   uuid NOT NULL,
    vector_key bytea NOT NULL,
    embedding  vector({dimensions}),
    PRIMARY KEY (tenant, chunk_id),
    CHECK ((embedding IS NULL) = (vector_key = '')),
    FOREIGN KEY (tenant, chunk_id) REFERENCES chunk ON DELETE CASCADE
);
CREATE INDEX {embedding}_nearest ON {embedding} USING hnsw (embedding {operators});
ALTER TABLE {embedding} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {embedding} FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON {embedding} USING (tenant = current_tenant());
GRANT SELECT, INSERT, DELETE ON {embedding} TO headrace_runtime;
SELECT create_lexical('{lexical}');

-- name: register
INSERT INTO generation (name, model, dimensions, distance, template, passage_prompt, over_long, analyzer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) DO NOTHING
RETURNING name;

-- name: get
SELECT name, model, dimensions, distance, state, template, passage_prompt, over_long, analyzer FROM generation WHERE name = $1;

-- name: active
SELECT name, model, dimensions, distance, state, template, passage_prompt, over_long, analyzer FROM generation WHERE state = 'active';

-- name: list
SELECT name, model, dimensions, distance, state, template, passage_prompt, over_long, analyzer FROM generation ORDER BY created_at, name;

-- name: lock
-- One switch at a time; readers do not wait.
LOCK TABLE generation IN SHARE ROW EXCLUSIVE MODE;

-- name: may_switch
SELECT has_table_privilege('generation', 'UPDATE');

-- name: retire_active
UPDATE generation SET state = 'retired' WHERE state = 'active' AND name <> $1;

-- name: activate
UPDATE generation SET state = 'active' WHERE name = $1 RETURNING name;
