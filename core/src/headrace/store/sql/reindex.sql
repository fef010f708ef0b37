-- name: life
-- What operators need to know of a generation besides its properties.
SELECT name, state, fill, changed_at, created_at, extract(epoch FROM now() - changed_at)::float AS changed_s
FROM generation ORDER BY created_at, name;

-- name: set_fill
UPDATE generation SET fill = $2 WHERE name = $1 AND state = 'building' RETURNING name;

-- name: set_embedder
UPDATE generation SET embedder_url = $2 WHERE name = $1 AND embedder_url IS DISTINCT FROM $2;

-- name: coverage
SELECT tenant, documents, covered, chunks, covered_chunks FROM generation_coverage($1);

-- name: lacks
SELECT tenant, document_id, version FROM generation_lacks($1, $2);

-- name: tenants
SELECT all_tenants();

-- name: begin_drop
UPDATE generation SET state = 'dropping', changed_at = now()
WHERE name = $1 AND state IN ('building', 'retired', 'dropping')
RETURNING name;

-- name: forget_documents
-- Takes the generation ($1) out of at most $3 documents of the tenant ($2), in order of the key as indexers write them.
WITH named AS (
    SELECT document_id FROM document
    WHERE tenant = $2 AND $1 = ANY (generations)
    ORDER BY document_id
    LIMIT $3
    FOR NO KEY UPDATE
)
UPDATE document AS d SET generations = array_remove(d.generations, $1)
FROM named
WHERE d.tenant = $2 AND d.document_id = named.document_id;

-- name: model_used
SELECT EXISTS (SELECT FROM generation WHERE model = $1 AND name <> $2 AND state <> 'dropped');

-- name: drop_tables
DROP TABLE IF EXISTS {embedding}, {vectors}, {lexical};

-- name: drop_statistics
-- With the frequencies of its terms, of this transaction's tenant.
DELETE FROM search_statistics WHERE tenant = $2 AND generation = $1;

-- name: end_drop
UPDATE generation SET state = 'dropped', changed_at = now() WHERE name = $1 AND state = 'dropping';
