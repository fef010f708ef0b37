-- For each reader what he may read: queries ask may_read, and policies are the wall behind them. See ADR 26.

-- Reader --------------------------------------------------------------------------------------------------------
-- The principals of this transaction's reader: none, unless the setting names some. '{*}' reads every document.
CREATE FUNCTION current_reader() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(nullif(current_setting('headrace.reader', true), ''), '{}')::text[];

CREATE FUNCTION reads_every_document() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN current_reader() = '{*}';

-- Whether this transaction's reader may read a document with this acl. Without an acl, it is the tenant's.
CREATE FUNCTION may_read(acl text[]) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN acl = '{}' OR acl && current_reader() OR reads_every_document();

-- Keys ----------------------------------------------------------------------------------------------------------
-- A key reads for one reader, or acts for readers and names one in each request.
ALTER TABLE api_key
    ADD COLUMN reader           text[]  NOT NULL DEFAULT '{}',
    ADD COLUMN acts_for_readers boolean NOT NULL DEFAULT false,
    ADD CHECK (reader = '{}' OR NOT acts_for_readers);

DROP FUNCTION authenticate;
-- The tenant and the reader of a key, before any tenant is known; no row when unknown or revoked.
CREATE FUNCTION authenticate(wanted bytea) RETURNS TABLE (tenant text, reader text[], acts_for_readers boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS 'SELECT k.tenant, k.reader, k.acts_for_readers FROM api_key AS k WHERE k.key_hash = wanted AND k.revoked_at IS NULL';
REVOKE ALL ON FUNCTION authenticate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION authenticate TO headrace_runtime;

-- Artifacts -----------------------------------------------------------------------------------------------------
-- A reader sees an artifact if he has all principals of the reader who asked, and may read all documents it was made from.
ALTER TABLE artifact
    ADD COLUMN reader  text[] NOT NULL DEFAULT '{unknown}',  -- principals of the reader who asked
    ADD COLUMN sources text[] NOT NULL DEFAULT '{}';         -- documents whose passages were shown to the provider
ALTER TABLE artifact ALTER COLUMN reader DROP DEFAULT, ALTER COLUMN sources DROP DEFAULT;

CREATE FUNCTION may_read_artifact(one artifact) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN reads_every_document() OR (one.reader <@ current_reader() AND NOT EXISTS (
        SELECT FROM unnest(one.sources) AS source (document_id)
        WHERE NOT EXISTS (
            SELECT FROM document AS d
            WHERE d.tenant = one.tenant AND d.document_id = source.document_id AND may_read(d.acl))));

-- Policies ------------------------------------------------------------------------------------------------------
-- What can be read depends on the tenant and the reader, what can be written on the tenant alone. A subquery without a
-- reference to the row is evaluated once for each query, so that a stage pays for no row. They are permissive policies
-- and not restrictive ones, so that definers are exempt (a policy would keep them from their GIN indexes) and every
-- other role is not.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['document', 'chunk', 'artifact'] LOOP
        EXECUTE format('DROP POLICY one_tenant ON %I', name);
        EXECUTE format('CREATE POLICY inserted ON %I FOR INSERT WITH CHECK (tenant = current_tenant())', name);
        EXECUTE format('CREATE POLICY updated ON %I FOR UPDATE USING (tenant = current_tenant())', name);
        EXECUTE format('CREATE POLICY deleted ON %I FOR DELETE USING (tenant = current_tenant())', name);
    END LOOP;
END
$$;
CREATE POLICY readable ON document FOR SELECT USING (
    tenant = current_tenant()
    AND ((SELECT reads_every_document()) OR acl = '{}' OR acl && (SELECT current_reader())));
CREATE POLICY readable ON chunk FOR SELECT USING (
    tenant = current_tenant()
    AND ((SELECT reads_every_document()) OR EXISTS (
        SELECT FROM document AS d WHERE d.tenant = chunk.tenant AND d.document_id = chunk.document_id)));
CREATE POLICY readable ON artifact FOR SELECT USING (
    tenant = current_tenant()
    AND ((SELECT reads_every_document()) OR (reader <@ (SELECT current_reader()) AND NOT EXISTS (
        SELECT FROM unnest(sources) AS source (document_id)
        WHERE NOT EXISTS (
            SELECT FROM document AS d WHERE d.tenant = artifact.tenant AND d.document_id = source.document_id)))));

-- Functions that look past a policy -----------------------------------------------------------------------------
-- The live documents of this transaction's tenant and reader that have all these attributes.
DROP FUNCTION having_attributes;
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
              AND may_read(d.acl)
              AND (only_documents IS NULL OR d.document_id = ANY (only_documents))
            LIMIT how_many;
        END
    $$;

-- Whether this transaction's tenant has live documents with an acl: if not, every reader may read all of them.
CREATE INDEX document_restricted ON document (tenant) WHERE acl <> '{}' AND NOT deleted;
CREATE FUNCTION tenant_restricts() RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        SELECT EXISTS (SELECT FROM document WHERE tenant = current_tenant() AND acl <> '{}' AND NOT deleted)
    $$;

-- The live documents of this transaction's tenant that its reader may read, up to `how_many`: each kind by its own index.
-- A definer, because && is not leakproof: below a policy it may not use its GIN index.
CREATE INDEX document_open ON document (tenant) WHERE acl = '{}' AND NOT deleted;
CREATE INDEX document_by_acl ON document USING gin (acl) WHERE acl <> '{}' AND NOT deleted;
CREATE FUNCTION readable_documents(only_documents text[], how_many integer) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        DECLARE
            this_tenant text   := current_tenant();
            this_reader text[] := current_reader();
        BEGIN
            RETURN QUERY
            SELECT *
            FROM (
                (SELECT d.document_id
                 FROM document AS d
                 WHERE d.tenant = this_tenant AND d.acl = '{}' AND NOT d.deleted
                   AND (only_documents IS NULL OR d.document_id = ANY (only_documents))
                 LIMIT how_many)
                UNION ALL
                (SELECT d.document_id
                 FROM document AS d
                 WHERE d.tenant = this_tenant AND d.acl && this_reader AND d.acl <> '{}' AND NOT d.deleted
                   AND (only_documents IS NULL OR d.document_id = ANY (only_documents))
                 LIMIT how_many)
            ) AS found
            LIMIT how_many;
        END
    $$;

REVOKE ALL ON FUNCTION having_attributes, tenant_restricts, readable_documents FROM PUBLIC;
GRANT EXECUTE ON FUNCTION having_attributes, tenant_restricts, readable_documents TO headrace_runtime;

DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO headrace_definer', current_schema());
    ALTER FUNCTION authenticate OWNER TO headrace_definer;
    ALTER FUNCTION having_attributes OWNER TO headrace_definer;
    ALTER FUNCTION tenant_restricts OWNER TO headrace_definer;
    ALTER FUNCTION readable_documents OWNER TO headrace_definer;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM headrace_definer', current_schema());
END
$$;
