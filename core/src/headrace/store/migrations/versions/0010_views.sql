-- The public contract of the store: views whose columns stay, for logins that read with SQL. See docs/guides/sql.md.
-- They run with the rights of the reader (security_invoker), so the policies of the tables apply to him.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headrace_reader') THEN
        CREATE ROLE headrace_reader NOLOGIN;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO headrace_reader', current_schema());
END
$$;

-- The tenant of each login that reads with SQL. Whoever may execute SQL may set headrace.tenant to anything, so this table
-- decides in addition.
CREATE TABLE sql_reader (
    login  name PRIMARY KEY,
    tenant text NOT NULL CHECK (tenant <> '')
);
ALTER TABLE sql_reader ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON sql_reader USING (tenant = current_tenant());
CREATE POLICY definer ON sql_reader FOR SELECT TO headrace_definer USING (true);

-- The tenant of this session's login; NULL for one that is not registered. A definer, so that no reader sees the others.
CREATE FUNCTION sql_reader_tenant() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS 'SELECT tenant FROM sql_reader WHERE login = session_user';
GRANT SELECT ON sql_reader TO headrace_definer;
REVOKE ALL ON FUNCTION sql_reader_tenant FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sql_reader_tenant TO headrace_reader;
DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO headrace_definer', current_schema());
    ALTER FUNCTION sql_reader_tenant OWNER TO headrace_definer;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM headrace_definer', current_schema());
END
$$;

-- Lets a login read the views, with the rows of one tenant. For the owner of the schema, who may grant roles. A login that
-- reads another tenant must be forbidden first.
CREATE FUNCTION allow_sql_reader(login name, tenant text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config('headrace.tenant', tenant, true);
        INSERT INTO sql_reader VALUES (allow_sql_reader.login, allow_sql_reader.tenant)
            ON CONFLICT DO NOTHING;
        IF NOT EXISTS (
            SELECT FROM sql_reader AS r WHERE r.login = allow_sql_reader.login AND r.tenant = allow_sql_reader.tenant
        ) THEN
            RAISE EXCEPTION 'login % reads another tenant with SQL; call forbid_sql_reader first', login;
        END IF;
        EXECUTE format('GRANT headrace_reader TO %I', login);
        EXECUTE format('ALTER ROLE %I SET headrace.tenant = %L', login, tenant);
        EXECUTE format('ALTER ROLE %I SET search_path = %I, public', login, current_schema());
        EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', login);
    END
$$;
CREATE FUNCTION forbid_sql_reader(login name, tenant text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config('headrace.tenant', tenant, true);
        DELETE FROM sql_reader AS r WHERE r.login = forbid_sql_reader.login AND r.tenant = forbid_sql_reader.tenant;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'login % does not read tenant % with SQL', login, tenant;
        END IF;
        EXECUTE format('REVOKE headrace_reader FROM %I', login);
    END
$$;
REVOKE ALL ON FUNCTION allow_sql_reader, forbid_sql_reader FROM PUBLIC;

-- Lets readers read a table, of their own tenant alone and as far as `condition` says: the policy is restrictive, so that it
-- narrows every other one. They may set headrace.reader to anything, too, so documents with an acl are not for them.
CREATE FUNCTION let_sql_readers(name text, columns text, condition text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(format('%I', name)) AND polname = 'sql_reader') THEN
            EXECUTE format(
                'CREATE POLICY sql_reader ON %I AS RESTRICTIVE FOR SELECT TO headrace_reader '
                'USING (tenant = (SELECT sql_reader_tenant()) AND %s)', name, condition);
        END IF;
        EXECUTE format('GRANT SELECT (%s) ON %I TO headrace_reader', columns, name);
    END
$$;
REVOKE ALL ON FUNCTION let_sql_readers FROM PUBLIC;
SELECT let_sql_readers('document', 'tenant, document_id, version, deleted, title, source, media_type, language, acl, '
                                   'attributes, chunk_ids, starts, ends, indexed_at', 'acl = ''{}''');
SELECT let_sql_readers('chunk', 'tenant, chunk_id, document_id, section, text, tokens',
    'EXISTS (SELECT FROM document AS d WHERE d.tenant = chunk.tenant AND d.document_id = chunk.document_id)');
GRANT SELECT (name, model, dimensions, distance, storage, state) ON generation TO headrace_reader;
GRANT EXECUTE ON FUNCTION current_tenant TO headrace_reader;

CREATE VIEW headrace_documents WITH (security_invoker) AS
    SELECT tenant, document_id, version, title, source, media_type, language, acl, attributes,
           cardinality(chunk_ids) AS chunks, indexed_at
    FROM document
    WHERE NOT deleted;
COMMENT ON VIEW headrace_documents IS 'Documents in their newest version that is indexed; deleted ones are left out.';
COMMENT ON COLUMN headrace_documents.tenant IS 'Tenant of the document.';
COMMENT ON COLUMN headrace_documents.document_id IS 'ID of the document, unique within the tenant.';
COMMENT ON COLUMN headrace_documents.version IS 'Version of the document, as its change event gave it.';
COMMENT ON COLUMN headrace_documents.title IS 'Title; empty if it has none.';
COMMENT ON COLUMN headrace_documents.source IS 'Name of the source; empty if the change event named none.';
COMMENT ON COLUMN headrace_documents.media_type IS 'Media type of the text, such as text/markdown.';
COMMENT ON COLUMN headrace_documents.language IS 'Language as a BCP 47 tag; empty if it is not known.';
COMMENT ON COLUMN headrace_documents.acl IS 'Who may read the document; documents with an acl are left out.';
COMMENT ON COLUMN headrace_documents.attributes IS 'Attributes of the change event, as an object of texts.';
COMMENT ON COLUMN headrace_documents.chunks IS 'Number of places of its chunks.';
COMMENT ON COLUMN headrace_documents.indexed_at IS 'When this version was written to the index.';

CREATE VIEW headrace_chunks WITH (security_invoker) AS
    SELECT c.tenant, c.chunk_id, c.document_id, placed.ordinal::integer - 1 AS ordinal, c.section, c.text,
           placed.start_at, placed.end_at, c.tokens
    FROM document AS d
    CROSS JOIN LATERAL unnest(d.chunk_ids, d.starts, d.ends) WITH ORDINALITY AS placed (chunk_id, start_at, end_at, ordinal)
    JOIN chunk AS c ON c.tenant = d.tenant AND c.chunk_id = placed.chunk_id;
COMMENT ON VIEW headrace_chunks IS 'Chunks at their places in the documents; a text that a section repeats has a row for each place.';
COMMENT ON COLUMN headrace_chunks.tenant IS 'Tenant of the document.';
COMMENT ON COLUMN headrace_chunks.chunk_id IS 'Identity of the chunk; an edit elsewhere in the document does not change it.';
COMMENT ON COLUMN headrace_chunks.document_id IS 'ID of the document.';
COMMENT ON COLUMN headrace_chunks.ordinal IS 'Place among the chunks of the document, from 0.';
COMMENT ON COLUMN headrace_chunks.section IS 'Headings from the outermost to the innermost.';
COMMENT ON COLUMN headrace_chunks.text IS 'Text of the chunk.';
COMMENT ON COLUMN headrace_chunks.start_at IS 'First character in the text of the document, from 0.';
COMMENT ON COLUMN headrace_chunks.end_at IS 'Character after the last one.';
COMMENT ON COLUMN headrace_chunks.tokens IS 'Number of tokens; NULL if it was not counted.';

-- The tables of a generation: the vectors of the chunks that they may read.
CREATE FUNCTION let_sql_readers_of(generation text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM let_sql_readers('embedding_' || generation, 'tenant, chunk_id, vector_key', format(
            'EXISTS (SELECT FROM chunk AS c WHERE c.tenant = %1$I.tenant AND c.chunk_id = %1$I.chunk_id)',
            'embedding_' || generation));
        PERFORM let_sql_readers('vector_' || generation, 'tenant, vector_key, embedding', format(
            'EXISTS (SELECT FROM %2$I AS e WHERE e.tenant = %1$I.tenant AND e.vector_key = %1$I.vector_key)',
            'vector_' || generation, 'embedding_' || generation));
    END
$$;
REVOKE ALL ON FUNCTION let_sql_readers_of FROM PUBLIC;

-- The view of the vectors has the tables of the active generation: a switch replaces it in its own transaction.
CREATE FUNCTION point_views(active text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM let_sql_readers_of(active);
        EXECUTE format(
            'CREATE OR REPLACE VIEW headrace_vectors WITH (security_invoker) AS '
            'SELECT e.tenant, e.chunk_id, g.name AS generation, g.model, v.embedding::public.vector AS embedding '
            'FROM %I AS e JOIN %I AS v ON v.tenant = e.tenant AND v.vector_key = e.vector_key '
            'JOIN generation AS g ON g.name = %L', 'embedding_' || active, 'vector_' || active, active);
        GRANT SELECT ON headrace_vectors TO headrace_reader;
        COMMENT ON VIEW headrace_vectors IS 'Vectors of the chunks in the generation that is searched. Chunks that are not embedded are left out.';
        COMMENT ON COLUMN headrace_vectors.tenant IS 'Tenant of the document.';
        COMMENT ON COLUMN headrace_vectors.chunk_id IS 'Identity of the chunk.';
        COMMENT ON COLUMN headrace_vectors.generation IS 'Generation of the index that is searched.';
        COMMENT ON COLUMN headrace_vectors.model IS 'Model that computed the vector.';
        COMMENT ON COLUMN headrace_vectors.embedding IS 'Vector of the text as the model got it, with float32 values.';
    END
$$;
REVOKE ALL ON FUNCTION point_views FROM PUBLIC;
GRANT SELECT ON headrace_documents, headrace_chunks TO headrace_reader;
SELECT point_views(name) FROM generation WHERE state = 'active';
