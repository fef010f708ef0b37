-- The lexical leg of search. A passage has the numbers of its terms, as an array with an index that finds candidates,
-- and BM25's weights of them, as a sparse vector that ranks them. See headrace.lexical and ADR 23.
ALTER TABLE generation ADD COLUMN analyzer text NOT NULL DEFAULT 'words-1/english';

DROP FUNCTION match_words;
DROP FUNCTION any_word;
ALTER TABLE chunk DROP COLUMN tsv;

-- How many passages of a tenant have a term. Estimates, refreshed like PostgreSQL's statistics (ADR 23): exact counts
-- would make every indexer of a tenant wait for the same rows. A term without a row is in one passage, or in none.
CREATE TABLE search_statistics (
    tenant       text        NOT NULL CHECK (tenant <> ''),
    generation   text        NOT NULL REFERENCES generation ON DELETE CASCADE,
    passages     bigint      NOT NULL,
    unrelated    real        NOT NULL,                -- mean cosine similarity of two passages by their dense vectors
    refreshed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, generation)
);
CREATE TABLE term_frequency (
    tenant     text    NOT NULL,
    generation text    NOT NULL,
    term       integer NOT NULL,
    passages   real    NOT NULL,
    PRIMARY KEY (tenant, generation, term),
    FOREIGN KEY (tenant, generation) REFERENCES search_statistics ON DELETE CASCADE
);

-- Keeps the rows of a table apart by tenant, and lets definers read all of them. `rights` are those of the services.
CREATE FUNCTION part_tenants(name text, rights text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_tenant ON %I USING (tenant = current_tenant())', name);
        EXECUTE format('CREATE POLICY definer ON %I FOR SELECT TO headrace_definer USING (true)', name);
        EXECUTE format('GRANT %s ON %I TO headrace_runtime', rights, name);
        EXECUTE format('GRANT SELECT ON %I TO headrace_definer', name);
    END
$$;
SELECT part_tenants('search_statistics', 'SELECT, INSERT, UPDATE, DELETE');
SELECT part_tenants('term_frequency', 'SELECT, INSERT, UPDATE, DELETE');

-- Creates a generation's table of lexical vectors; `name` is checked by the caller. Rows are inserted and deleted, never
-- updated. Deleting a chunk deletes its rows in every generation.
CREATE FUNCTION create_lexical(name text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format(
            'CREATE TABLE %I ('
            '    tenant text NOT NULL, chunk_id uuid NOT NULL, lexical_key bytea NOT NULL, terms integer[] NOT NULL,'
            '    weights public.sparsevec(1000000000) NOT NULL, PRIMARY KEY (tenant, chunk_id),'
            '    FOREIGN KEY (tenant, chunk_id) REFERENCES chunk ON DELETE CASCADE)', name);
        EXECUTE format('CREATE INDEX %I ON %I USING gin (terms)', name || '_terms', name);
        PERFORM part_tenants(name, 'SELECT, INSERT, DELETE');
    END
$$;

-- The passages of this transaction's tenant that match best by terms. `numbers` are the terms of the query.
-- Candidates are the passages that share one of the rarest terms: terms are taken, rarest first, as long as those before
-- them are in fewer than `most` passages, and at most twice `most` passages are looked at (ten times that with a filter).
-- So the work is bounded, however common the words are. Candidates are ranked by the sum over all terms of their weight in
-- the passage times their rarity.
-- A definer, because && and @> are not leakproof: below a policy they may not use their GIN index.
CREATE FUNCTION match_terms(
    wanted_generation text, numbers integer[], most integer, how_many integer, only_documents text[],
    with_attributes jsonb
) RETURNS TABLE (chunk_id uuid, score real)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        DECLARE
            this_tenant text := current_tenant();
            lexical     text := 'lexical_' || (SELECT name FROM generation WHERE name = wanted_generation);
            weighed     record;
            candidates  text;
        BEGIN
            SELECT * INTO weighed FROM weigh_terms(wanted_generation, numbers, most);
            IF lexical IS NULL OR weighed.chosen IS NULL THEN
                RETURN;
            END IF;
            IF only_documents IS NULL THEN
                candidates := format(
                    'SELECT l.chunk_id, l.weights FROM %I AS l WHERE l.tenant = $1 AND l.terms && $2 LIMIT $5', lexical);
                IF with_attributes IS NOT NULL THEN
                    -- The rarest terms may have all their passages outside the filter, so all terms find candidates.
                    weighed.chosen := weighed.used;
                    candidates := 'SELECT * FROM (' || candidates || ' * 10) AS l WHERE EXISTS ('
                        '    SELECT FROM chunk AS c JOIN document AS d USING (tenant, document_id)'
                        '    WHERE c.tenant = $1 AND c.chunk_id = l.chunk_id AND d.attributes @> $4) LIMIT $5';
                END IF;
            ELSE
                weighed.chosen := weighed.used;
                candidates := format(
                    'SELECT l.chunk_id, l.weights FROM ('
                    '    SELECT DISTINCT unnest(chunk_ids) AS chunk_id FROM document'
                    '    WHERE tenant = $1 AND document_id = ANY ($3) AND ($4::jsonb IS NULL OR attributes @> $4)'
                    ') AS own JOIN %I AS l ON l.tenant = $1 AND l.chunk_id = own.chunk_id AND l.terms && $2 '
                    'LIMIT $5 * 10', lexical);
            END IF;
            RETURN QUERY EXECUTE
                'SELECT found.chunk_id, -(found.weights OPERATOR(public.<#>) $6)::real AS score FROM (' || candidates
                || ') AS found ORDER BY score DESC, chunk_id LIMIT $7'
                USING this_tenant, weighed.chosen, only_documents, with_attributes, 2 * most, weighed.query, how_many;
        END
    $$;

-- The query's side of BM25: `used` are the 64 rarest terms, `query` the sparse vector of their rarities, `chosen` those
-- that find candidates. Numbers of terms count from 0, positions in a sparsevec from 1.
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
            LEFT JOIN term_frequency AS f
                ON f.tenant = current_tenant() AND f.generation = wanted_generation AND f.term = given.term
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
        SELECT array_agg(term), array_agg(term) FILTER (WHERE before < most),
               ('{' || string_agg((term + 1) || ':' || rarity::real, ',' ORDER BY term) || '}/1000000000')
                   ::public.sparsevec
        FROM weighed
    $$;

REVOKE ALL ON FUNCTION match_terms, weigh_terms, create_lexical, part_tenants FROM PUBLIC;
GRANT EXECUTE ON FUNCTION match_terms, weigh_terms TO headrace_runtime;
GRANT SELECT ON generation TO headrace_definer;
DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO headrace_definer', current_schema());
    ALTER FUNCTION match_terms OWNER TO headrace_definer;
    ALTER FUNCTION weigh_terms OWNER TO headrace_definer;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM headrace_definer', current_schema());
END
$$;

-- The generations that exist: new versions of documents get lexical vectors, the others are found by their vectors.
SELECT create_lexical('lexical_' || name) FROM generation;
