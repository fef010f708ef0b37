-- What calls of models were made and what they cost, at the price of that time. `usage` has a row for each tenant, day
-- of UTC, stage and model; `usage_document` one for each document, over all days, so that it grows with the documents
-- and not with time. Both are written in the transaction that caches the vectors that were paid for.
CREATE TABLE usage (
    tenant          text    NOT NULL CHECK (tenant <> ''),
    day             date    NOT NULL,
    stage           text    NOT NULL,
    model           text    NOT NULL,
    texts           bigint  NOT NULL,
    tokens          bigint  NOT NULL,
    calls           bigint  NOT NULL,
    usd             numeric NOT NULL,
    unpriced_tokens bigint  NOT NULL,                 -- of those, tokens whose price nobody knew
    PRIMARY KEY (tenant, day, stage, model)
);
CREATE INDEX usage_by_day ON usage (day);

CREATE TABLE usage_document (
    tenant          text    NOT NULL CHECK (tenant <> ''),
    document_id     text    NOT NULL CHECK (document_id <> ''),
    stage           text    NOT NULL,
    model           text    NOT NULL,
    texts           bigint  NOT NULL,
    tokens          bigint  NOT NULL,
    usd             numeric NOT NULL,
    unpriced_tokens bigint  NOT NULL,
    first_day       date    NOT NULL,
    last_day        date    NOT NULL,
    PRIMARY KEY (tenant, document_id, stage, model)
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage', 'usage_document'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY one_tenant ON %I USING (tenant = current_tenant())', name);
    END LOOP;
END
$$;
GRANT SELECT, INSERT, UPDATE ON usage, usage_document TO headrace_runtime;

-- What all tenants together spent: a cap on all of them needs the sums, and no service may see whose they are.
CREATE FUNCTION spent_in_all(this_day date, since date)
    RETURNS TABLE (usd_day numeric, usd_month numeric, tokens_day bigint, tokens_month bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
        SELECT coalesce(sum(usd) FILTER (WHERE day = this_day), 0), coalesce(sum(usd), 0),
               coalesce(sum(tokens) FILTER (WHERE day = this_day), 0)::bigint, coalesce(sum(tokens), 0)::bigint
        FROM usage
        WHERE day >= since
    $$;
GRANT SELECT ON usage TO headrace_definer;
CREATE POLICY definer ON usage FOR SELECT TO headrace_definer USING (true);
REVOKE ALL ON FUNCTION spent_in_all FROM PUBLIC;
GRANT EXECUTE ON FUNCTION spent_in_all TO headrace_runtime;
DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO headrace_definer', current_schema());
    ALTER FUNCTION spent_in_all OWNER TO headrace_definer;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM headrace_definer', current_schema());
END
$$;
