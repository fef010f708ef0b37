-- The store's first schema. Runs with search_path set to the schema that is being migrated.

-- Roles ---------------------------------------------------------------------------------------------------------
-- headrace_runtime: what the services' logins are members of. Owns nothing, is subject to every policy.
-- headrace_definer: owns the functions that must look past a policy, and nothing else; nobody logs in as it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headrace_runtime') THEN
        CREATE ROLE headrace_runtime NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headrace_definer') THEN
        CREATE ROLE headrace_definer NOLOGIN;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        -- giving a function to a role takes the right to become it; INHERIT FALSE keeps its policies off the owner
        EXECUTE format('GRANT headrace_definer TO %I WITH INHERIT FALSE, SET TRUE', current_user);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO headrace_runtime, headrace_definer', current_schema());
END
$$;

-- Tenant --------------------------------------------------------------------------------------------------------
-- The tenant of this transaction, or NULL (which equals nothing: the policies fail closed).
-- After a transaction-local set_config has ended the setting reads as '', hence nullif.
CREATE FUNCTION current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('headrace.tenant', true), '');

-- Documents: the fence ------------------------------------------------------------------------------------------
-- One row for each document ever seen; outlives the document's deletion, so that nothing older comes back.
-- The positions of chunks stand here, as arrays in the order of the text, and not in the rows of chunks: an edit
-- that shifts them changes this row alone. A chunk_id may occur more than once in chunk_ids (text repeated in one
-- section is one chunk at several places).
CREATE TABLE document (
    tenant           text        NOT NULL CHECK (tenant <> ''),
    document_id      text        NOT NULL CHECK (document_id <> ''),
    version          bigint      NOT NULL CHECK (version >= 0),
    deleted          boolean     NOT NULL,
    content_hash     bytea       NOT NULL,
    generations      text[]      NOT NULL,            -- those whose vectors of this version are complete
    title            text        NOT NULL,
    source           text        NOT NULL,
    media_type       text        NOT NULL,
    acl              text[]      NOT NULL,
    attributes       jsonb       NOT NULL,
    pipeline_id      text        NOT NULL,
    pipeline_version text        NOT NULL,
    request_id       text        NOT NULL,
    history          jsonb       NOT NULL,            -- the envelope's stage history
    metadata         jsonb       NOT NULL,            -- the envelope's metadata, keys stage.key
    model            text        NOT NULL,            -- that computed the vectors of this version
    chunk_ids        uuid[]      NOT NULL,
    starts           integer[]   NOT NULL,            -- in characters of the source text
    ends             integer[]   NOT NULL,
    indexed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, document_id),
    CHECK (cardinality(starts) = cardinality(chunk_ids) AND cardinality(ends) = cardinality(chunk_ids)),
    CHECK (NOT deleted OR cardinality(chunk_ids) = 0)
);
CREATE INDEX document_by_request ON document (tenant, request_id);
CREATE INDEX document_by_attributes ON document USING gin (attributes jsonb_path_ops);

-- Chunks: inserted and deleted, never updated -------------------------------------------------------------------
CREATE TABLE chunk (
    tenant      text     NOT NULL,
    chunk_id    uuid     NOT NULL,
    document_id text     NOT NULL,
    section     text[]   NOT NULL,                    -- headings from the outermost to the innermost
    text        text     NOT NULL,
    text_hash   bytea    NOT NULL,
    tokens      integer,
    tsv         tsvector NOT NULL GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED,
    PRIMARY KEY (tenant, chunk_id),
    FOREIGN KEY (tenant, document_id) REFERENCES document
);
CREATE INDEX chunk_by_words ON chunk USING gin (tsv);

-- Vectors by text: a repeat costs no call to a model ------------------------------------------------------------
CREATE TABLE vector_cache (
    tenant     text        NOT NULL CHECK (tenant <> ''),
    model      text        NOT NULL,
    text_hash  bytea       NOT NULL,
    embedding  public.vector NOT NULL,                -- without a dimension: models differ
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, model, text_hash)
);

-- Generations of the index --------------------------------------------------------------------------------------
-- Each has a table embedding_<name>, made by store/sql/generations.sql. Names no tenant, so no policy.
CREATE TABLE generation (
    name       text        PRIMARY KEY,
    model      text        NOT NULL,
    dimensions integer     NOT NULL CHECK (dimensions BETWEEN 1 AND 2000),
    distance   text        NOT NULL CHECK (distance IN ('cosine', 'l2', 'inner_product')),
    state      text        NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'active', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX generation_at_most_one_active ON generation (state) WHERE state = 'active';

-- Artifacts -----------------------------------------------------------------------------------------------------
CREATE TABLE artifact (
    tenant           text        NOT NULL CHECK (tenant <> ''),
    artifact_id      uuid        NOT NULL,
    version          integer     NOT NULL CHECK (version >= 1),
    request_id       text        NOT NULL,
    kind             text        NOT NULL,
    title            text        NOT NULL,
    mime_type        text        NOT NULL,
    text             text        NOT NULL,
    citations        jsonb       NOT NULL,
    provider         text        NOT NULL,
    model            text        NOT NULL,
    prompt           text        NOT NULL,            -- name and version of the prompt
    pipeline_id      text        NOT NULL,
    pipeline_version text        NOT NULL,
    created_by       text        NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, artifact_id, version)
);
CREATE INDEX artifact_by_request ON artifact (tenant, request_id);

-- API keys: only the SHA-256 is kept ----------------------------------------------------------------------------
CREATE TABLE api_key (
    key_hash   bytea       PRIMARY KEY CHECK (length(key_hash) = 32),
    tenant     text        NOT NULL CHECK (tenant <> ''),
    name       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

-- Row-level security --------------------------------------------------------------------------------------------
-- FORCEd: the owner is subject to it too. Whoever names no tenant sees and writes nothing.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['document', 'chunk', 'vector_cache', 'artifact', 'api_key'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_tenant ON %I USING (tenant = current_tenant())', name);
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE ON document TO headrace_runtime;
GRANT SELECT, INSERT, DELETE ON chunk TO headrace_runtime;
GRANT SELECT, INSERT, DELETE ON vector_cache TO headrace_runtime;
GRANT SELECT ON generation TO headrace_runtime;
GRANT SELECT, INSERT ON artifact TO headrace_runtime;

-- Functions that look past a policy -----------------------------------------------------------------------------
-- A definer's search_path is pinned (FROM CURRENT: the schema that is being migrated, then pg_temp).

-- Any word of the text, stemmed: an OR, since a question's words seldom all stand in the chunk that answers it.
CREATE FUNCTION any_word(words text) RETURNS tsquery LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
        FROM unnest(to_tsvector('simple', words))
    );

-- The tenant whose key this is, before any tenant is known; NULL when unknown or revoked.
CREATE FUNCTION authenticate(wanted bytea) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS 'SELECT tenant FROM api_key WHERE key_hash = wanted AND revoked_at IS NULL';

-- The chunks of this transaction's tenant that match best by words. A definer, because @@ and @> are not leakproof:
-- below a policy they may not use their GIN index, and every chunk of the tenant would be read.
CREATE FUNCTION match_words(words text, only_documents text[], with_attributes jsonb, how_many integer)
    RETURNS TABLE (chunk_id uuid, rank real)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        DECLARE
            wanted      tsquery := any_word(words);  -- once, not for each row
            this_tenant text    := current_tenant();
        BEGIN
            RETURN QUERY
            SELECT c.chunk_id, ts_rank_cd(c.tsv, wanted, 1) AS score
            FROM chunk AS c
            WHERE c.tenant = this_tenant
              AND c.tsv @@ wanted
              AND (only_documents IS NULL OR c.document_id = ANY (only_documents))
              AND (with_attributes IS NULL OR EXISTS (
                    SELECT FROM document AS d
                    WHERE d.tenant = c.tenant AND d.document_id = c.document_id AND d.attributes @> with_attributes))
            ORDER BY score DESC, c.chunk_id
            LIMIT how_many;
        END
    $$;

-- The live documents of this transaction's tenant that have all these attributes. A definer for the same reason.
CREATE FUNCTION having_attributes(wanted jsonb, only_documents text[], how_many integer) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        DECLARE
            this_tenant text := current_tenant();
        BEGIN
            RETURN QUERY
            SELECT d.document_id
            FROM document AS d
            WHERE d.tenant = this_tenant
              AND NOT d.deleted
              AND d.attributes @> wanted
              AND (only_documents IS NULL OR d.document_id = ANY (only_documents))
            LIMIT how_many;
        END
    $$;

GRANT SELECT ON api_key, chunk, document TO headrace_definer;
CREATE POLICY definer ON api_key FOR SELECT TO headrace_definer USING (true);
CREATE POLICY definer ON chunk FOR SELECT TO headrace_definer USING (true);
CREATE POLICY definer ON document FOR SELECT TO headrace_definer USING (true);

REVOKE ALL ON FUNCTION authenticate, match_words, having_attributes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION authenticate, match_words, having_attributes TO headrace_runtime;
DO $$
BEGIN
    -- only someone who may create here can be made an owner here
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO headrace_definer', current_schema());
    ALTER FUNCTION authenticate OWNER TO headrace_definer;
    ALTER FUNCTION match_words OWNER TO headrace_definer;
    ALTER FUNCTION having_attributes OWNER TO headrace_definer;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM headrace_definer', current_schema());
END
$$;
