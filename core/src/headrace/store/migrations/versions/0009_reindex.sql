-- The life of a generation. A generation that is dropped keeps its row, because its name occurs in logs that are shared
-- (actions on dead letters, replays), so that no other generation may ever have it.
ALTER TABLE generation
    ADD COLUMN embedder_url text,                     -- where its embedder answers queries; NULL: as services are set
    ADD COLUMN ef_search    integer NOT NULL DEFAULT 100 CHECK (ef_search BETWEEN 1 AND 1000),  -- HNSW: candidates
    ADD COLUMN probes       integer NOT NULL DEFAULT 1 CHECK (probes BETWEEN 1 AND 32768),      -- IVFFlat: lists
    ADD COLUMN fill         text,                     -- the replay that fills it
    ADD COLUMN changed_at   timestamptz NOT NULL DEFAULT now(),  -- when its state changed last
    DROP CONSTRAINT generation_state_check,
    ADD CONSTRAINT generation_state_check
        CHECK (state IN ('building', 'active', 'retired', 'dropping', 'dropped'));

-- How complete a generation is, by tenant: live documents and their chunks, and those of them that it has. Definers, so
-- that the owner of the schema sees all tenants; services may not execute them.
CREATE FUNCTION generation_coverage(wanted text)
    RETURNS TABLE (tenant text, documents bigint, covered bigint, chunks bigint, covered_chunks bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        SELECT d.tenant, count(*), count(*) FILTER (WHERE wanted = ANY (d.generations)),
               coalesce(sum(cardinality(d.chunk_ids)), 0)::bigint,
               coalesce(sum(cardinality(d.chunk_ids)) FILTER (WHERE wanted = ANY (d.generations)), 0)::bigint
        FROM document AS d
        WHERE NOT d.deleted
        GROUP BY d.tenant
        ORDER BY d.tenant
    $$;

-- Live documents that a generation lacks in their current version.
CREATE FUNCTION generation_lacks(wanted text, how_many integer)
    RETURNS TABLE (tenant text, document_id text, version bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        SELECT d.tenant, d.document_id, d.version
        FROM document AS d
        WHERE NOT d.deleted AND NOT wanted = ANY (d.generations)
        ORDER BY d.tenant, d.document_id
        LIMIT how_many
    $$;

-- Every tenant that has a document or a cached vector. Vectors that all tenants share belong to the tenant /.
CREATE FUNCTION all_tenants() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        SELECT d.tenant FROM document AS d UNION SELECT v.tenant FROM vector_cache AS v ORDER BY 1
    $$;

GRANT SELECT ON vector_cache TO headrace_definer;
CREATE POLICY definer ON vector_cache FOR SELECT TO headrace_definer USING (true);
REVOKE ALL ON FUNCTION generation_coverage, generation_lacks, all_tenants FROM PUBLIC;
DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO headrace_definer', current_schema());
    EXECUTE format('GRANT EXECUTE ON FUNCTION generation_coverage, generation_lacks, all_tenants TO %I', current_user);
    ALTER FUNCTION generation_coverage OWNER TO headrace_definer;
    ALTER FUNCTION generation_lacks OWNER TO headrace_definer;
    ALTER FUNCTION all_tenants OWNER TO headrace_definer;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM headrace_definer', current_schema());
END
$$;

-- As before, but without generations whose tables are or will be gone.
CREATE OR REPLACE FUNCTION delete_chunks(chunk_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        generation text;
        keys       bytea[];
    BEGIN
        FOR generation IN SELECT name FROM generation WHERE state NOT IN ('dropping', 'dropped') ORDER BY name LOOP
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
