-- How a generation's texts are prepared, and by which text each vector goes.
ALTER TABLE generation
    ADD COLUMN template       text NOT NULL DEFAULT '{body}',
    ADD COLUMN passage_prompt text NOT NULL DEFAULT '',
    ADD COLUMN over_long      text NOT NULL DEFAULT 'cut' CHECK (over_long IN ('cut', 'split', 'skip'));

-- The generations that exist: what was embedded of their chunks is the chunks' text.
DO $$
DECLARE
    name text;
BEGIN
    ALTER TABLE chunk NO FORCE ROW LEVEL SECURITY;
    FOR name IN SELECT 'embedding_' || generation.name FROM generation LOOP
        EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I ADD COLUMN vector_key bytea, ALTER COLUMN embedding DROP NOT NULL', name);
        EXECUTE format(
            'UPDATE %I AS e SET vector_key = c.text_hash FROM chunk AS c '
            'WHERE c.tenant = e.tenant AND c.chunk_id = e.chunk_id', name);
        EXECUTE format(
            'ALTER TABLE %I ALTER COLUMN vector_key SET NOT NULL, '
            'ADD CHECK ((embedding IS NULL) = (vector_key = '''')), FORCE ROW LEVEL SECURITY', name);
    END LOOP;
    ALTER TABLE chunk FORCE ROW LEVEL SECURITY;
END
$$;

-- When a cached vector was last asked for, told within days, so that those longest unused can go.
ALTER TABLE vector_cache ADD COLUMN last_used date NOT NULL DEFAULT current_date;
CREATE INDEX vector_cache_by_use ON vector_cache (tenant, last_used);
GRANT UPDATE (last_used) ON vector_cache TO headrace_runtime;
