-- One vector for each distinct text of a tenant in a generation; chunks refer to it. A passage that stands in a thousand
-- documents is one point of the index, so that the passages around it stay reachable. See ADR 25.
ALTER TABLE generation
    ADD COLUMN storage text NOT NULL DEFAULT 'vector' CHECK (storage IN ('vector', 'halfvec', 'binary')),
    DROP CONSTRAINT generation_dimensions_check,
    ADD CHECK (dimensions BETWEEN 1 AND CASE storage WHEN 'vector' THEN 2000 ELSE 4000 END);

-- Creates the tables of a generation's dense vectors; the caller has checked the name. `type` is that of the vectors.
-- A vector's key is the hash of the text that was embedded. A chunk without a vector (NULL) is not embedded, on purpose.
CREATE FUNCTION create_dense(generation text, type text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        vectors text := 'vector_' || generation;
        chunks  text := 'embedding_' || generation;
    BEGIN
        EXECUTE format(
            'CREATE TABLE %I ('
            '    tenant text NOT NULL, vector_key bytea NOT NULL CHECK (vector_key <> ''''), embedding %s NOT NULL,'
            '    PRIMARY KEY (tenant, vector_key))', vectors, type);
        EXECUTE format(
            'CREATE TABLE %I ('
            '    tenant text NOT NULL, chunk_id uuid NOT NULL, vector_key bytea, PRIMARY KEY (tenant, chunk_id),'
            '    FOREIGN KEY (tenant, chunk_id) REFERENCES chunk ON DELETE CASCADE,'
            '    FOREIGN KEY (tenant, vector_key) REFERENCES %I)', chunks, vectors);
        EXECUTE format('CREATE INDEX %I ON %I (tenant, vector_key)', chunks || '_by_vector', chunks);
        PERFORM part_tenants(vectors, 'SELECT, INSERT, DELETE, UPDATE (vector_key)');  -- UPDATE allows FOR UPDATE alone
        PERFORM part_tenants(chunks, 'SELECT, INSERT, DELETE');
    END
$$;

-- Deletes those of the vectors that no chunk of this transaction's tenant refers to. A vector that another transaction
-- refers to or deletes at the moment is skipped, not waited for; sweep_vectors finds it later. The second statement sees
-- what was committed before the first one took its locks.
CREATE FUNCTION drop_unused_vectors(generation text, keys bytea[]) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        locked bytea[];
    BEGIN
        EXECUTE format(
            'SELECT array_agg(vector_key) FROM (SELECT vector_key FROM %I WHERE tenant = $1 AND vector_key = ANY ($2) '
            'ORDER BY vector_key FOR UPDATE SKIP LOCKED) AS found', 'vector_' || generation)
            INTO locked USING current_tenant(), keys;
        EXECUTE format(
            'DELETE FROM %I AS v WHERE v.tenant = $1 AND v.vector_key = ANY ($2) AND NOT EXISTS ('
            '    SELECT FROM %I AS e WHERE e.tenant = $1 AND e.vector_key = v.vector_key)',
            'vector_' || generation, 'embedding_' || generation)
            USING current_tenant(), locked;
    END
$$;

-- Deletes chunks of this transaction's tenant, and the vectors of every generation that only they refer to.
CREATE FUNCTION delete_chunks(chunk_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        generation text;
        keys       bytea[];
    BEGIN
        FOR generation IN SELECT name FROM generation ORDER BY name LOOP
            EXECUTE format(
                'WITH gone AS (DELETE FROM %I WHERE tenant = $1 AND chunk_id = ANY ($2) RETURNING vector_key) '
                'SELECT array_agg(DISTINCT vector_key) FROM gone WHERE vector_key IS NOT NULL',
                'embedding_' || generation)
                INTO keys USING current_tenant(), chunk_ids;
            IF keys IS NOT NULL THEN
                PERFORM drop_unused_vectors(generation, keys);
            END IF;
        END LOOP;
        DELETE FROM chunk AS c WHERE c.tenant = current_tenant() AND c.chunk_id = ANY (delete_chunks.chunk_ids);
    END
$$;

-- Deletes up to `most` vectors that no chunk refers to, and returns their number.
CREATE FUNCTION sweep_vectors(generation text, most integer) RETURNS integer LANGUAGE plpgsql AS $$
    DECLARE
        unused bytea[];
    BEGIN
        EXECUTE format(
            'SELECT array_agg(vector_key) FROM (SELECT vector_key FROM %I AS v WHERE v.tenant = $1 AND NOT EXISTS ('
            '    SELECT FROM %I AS e WHERE e.tenant = $1 AND e.vector_key = v.vector_key) LIMIT $2) AS found',
            'vector_' || generation, 'embedding_' || generation)
            INTO unused USING current_tenant(), most;
        IF unused IS NOT NULL THEN
            PERFORM drop_unused_vectors(generation, unused);
        END IF;
        RETURN coalesce(cardinality(unused), 0);
    END
$$;

REVOKE ALL ON FUNCTION create_dense, drop_unused_vectors, delete_chunks, sweep_vectors FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_unused_vectors, delete_chunks, sweep_vectors TO headrace_runtime;

-- The generations that exist.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT * FROM generation LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO before', 'embedding_' || one.name);
        EXECUTE format('ALTER INDEX %I RENAME TO before_pkey', 'embedding_' || one.name || '_pkey');
        EXECUTE format('DROP INDEX %I', 'embedding_' || one.name || '_nearest');
        PERFORM create_dense(one.name, format('public.vector(%s)', one.dimensions));
        ALTER TABLE before NO FORCE ROW LEVEL SECURITY;
        EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', 'vector_' || one.name);
        EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', 'embedding_' || one.name);
        EXECUTE format(
            'INSERT INTO %I SELECT DISTINCT ON (tenant, vector_key) tenant, vector_key, embedding FROM before '
            'WHERE embedding IS NOT NULL', 'vector_' || one.name);
        EXECUTE format(
            'INSERT INTO %I SELECT tenant, chunk_id, nullif(vector_key, '''') FROM before', 'embedding_' || one.name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', 'vector_' || one.name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', 'embedding_' || one.name);
        DROP TABLE before;
        EXECUTE format(
            'CREATE INDEX %I ON %I USING hnsw (embedding public.%s)', 'vector_' || one.name || '_nearest',
            'vector_' || one.name,
            CASE one.distance WHEN 'cosine' THEN 'vector_cosine_ops' WHEN 'l2' THEN 'vector_l2_ops' ELSE 'vector_ip_ops' END);
    END LOOP;
END
$$;

-- By terms, as before, for a query that is weighed already (weigh_terms), so that one statement weighs it once.
-- Candidates are the passages that have the three rarest terms together, and those that share one of the terms `chosen`, at
-- most `most` of each; of the documents `only_documents`, if given, those that share one of the terms `used`. Sorted,
-- best first.
-- A definer, because && is not leakproof: below a policy it may not use its GIN index. The planner takes && for as cheap as
-- a comparison of numbers, so it must not choose to compare every row.
DROP FUNCTION match_terms;
CREATE FUNCTION match_terms(
    wanted_generation text, used integer[], chosen integer[], query public.sparsevec, most integer, wide boolean,
    only_documents text[]
) RETURNS TABLE (chunk_id uuid, score real)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
    AS $$
        DECLARE
            lexical    text := 'lexical_' || (SELECT name FROM generation WHERE name = wanted_generation);
            candidates text;
        BEGIN
            IF lexical IS NULL OR chosen IS NULL THEN
                RETURN;
            END IF;
            IF only_documents IS NULL THEN
                -- IS NOT DISTINCT FROM: the primary key must not be used in place of the terms' index
                candidates := format(
                    '(SELECT l.chunk_id, l.weights FROM %1$I AS l'
                    ' WHERE l.tenant IS NOT DISTINCT FROM $1 AND l.terms @> $6 LIMIT $4 / 2)'
                    'UNION ALL '
                    '(SELECT l.chunk_id, l.weights FROM %1$I AS l'
                    ' WHERE l.tenant IS NOT DISTINCT FROM $1 AND l.terms && $2 AND NOT l.terms @> $6 LIMIT $4 / 2)', lexical);
            ELSE
                candidates := format(
                    'SELECT l.chunk_id, l.weights FROM ('
                    '    SELECT DISTINCT unnest(chunk_ids) AS chunk_id FROM document'
                    '    WHERE tenant = $1 AND document_id = ANY ($3)'
                    ') AS own JOIN %I AS l ON l.tenant = $1 AND l.chunk_id = own.chunk_id AND l.terms && $2 LIMIT $4',
                    lexical);
            END IF;
            RETURN QUERY EXECUTE
                'SELECT found.chunk_id, -(found.weights OPERATOR(public.<#>) $5)::real AS score FROM (' || candidates
                || ') AS found ORDER BY score DESC, chunk_id'
                USING current_tenant(), CASE WHEN wide OR only_documents IS NOT NULL THEN used ELSE chosen END,
                      only_documents, CASE WHEN wide OR only_documents IS NOT NULL THEN 20 ELSE 2 END * most, query,
                      used[1:3];
        END
    $$;

-- As before, but each term is looked up by the primary key, whatever the statistics of the table say.
DROP FUNCTION weigh_terms;
CREATE FUNCTION weigh_terms(
    wanted_generation text, numbers integer[], most integer,
    OUT used integer[], OUT chosen integer[], OUT query public.sparsevec
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        WITH known AS (
            SELECT greatest(coalesce(max(s.passages), 0), 1) AS passages
            FROM search_statistics AS s
            WHERE s.tenant = current_tenant() AND s.generation = wanted_generation
        ), frequent AS (
            SELECT given.term, coalesce(f.passages, 1) AS passages
            FROM unnest(numbers) AS given (term)
            LEFT JOIN LATERAL (
                SELECT passages FROM term_frequency
                WHERE tenant = current_tenant() AND generation = wanted_generation AND term = given.term
                LIMIT 1
            ) AS f ON TRUE
        ), rarest AS (
            SELECT term, passages, sum(passages) OVER (ORDER BY passages, term) - passages AS before
            FROM frequent
            ORDER BY passages, term
            LIMIT 64
        ), weighed AS (
            SELECT term, before,
                   ln(1 + (greatest(known.passages - rarest.passages, 0) + 0.5) / (rarest.passages + 0.5)) AS rarity
            FROM rarest, known
        )
        SELECT array_agg(term ORDER BY before, term), array_agg(term) FILTER (WHERE before < most),
               ('{' || string_agg((term + 1) || ':' || rarity::real, ',' ORDER BY term) || '}/1000000000')
                   ::public.sparsevec
        FROM weighed
    $$;

REVOKE ALL ON FUNCTION match_terms, weigh_terms FROM PUBLIC;
GRANT EXECUTE ON FUNCTION match_terms, weigh_terms TO headrace_runtime;
DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO headrace_definer', current_schema());
    ALTER FUNCTION match_terms OWNER TO headrace_definer;
    ALTER FUNCTION weigh_terms OWNER TO headrace_definer;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM headrace_definer', current_schema());
END
$$;

-- Long passages keep their lexical vector in the row: ranking reads hundreds of them, and each in TOAST costs three pages.
CREATE OR REPLACE FUNCTION create_lexical(name text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format(
            'CREATE TABLE %I ('
            '    tenant text NOT NULL, chunk_id uuid NOT NULL, lexical_key bytea NOT NULL, terms integer[] NOT NULL,'
            '    weights public.sparsevec(1000000000) NOT NULL, PRIMARY KEY (tenant, chunk_id),'
            '    FOREIGN KEY (tenant, chunk_id) REFERENCES chunk ON DELETE CASCADE'
            ') WITH (toast_tuple_target = 8160)', name);
        EXECUTE format('CREATE INDEX %I ON %I USING gin (terms)', name || '_terms', name);
        PERFORM part_tenants(name, 'SELECT, INSERT, DELETE');
    END
$$;
DO $$
DECLARE
    one text;
BEGIN
    FOR one IN SELECT 'lexical_' || name FROM generation LOOP
        EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', one);
    END LOOP;
END
$$;
