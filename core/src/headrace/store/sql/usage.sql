-- name: add_documents
-- Sorted by key, so that two embedders that pay for the same documents cannot deadlock.
INSERT INTO usage_document AS known (
    tenant, document_id, stage, model, texts, tokens, usd, unpriced_tokens, first_day, last_day
)
SELECT $1, document_id, $2, $3, texts, tokens, usd, unpriced_tokens, $4, $4
FROM unnest($5::text[], $6::bigint[], $7::bigint[], $8::numeric[], $9::bigint[])
    AS given (document_id, texts, tokens, usd, unpriced_tokens)
ORDER BY document_id
ON CONFLICT (tenant, document_id, stage, model) DO UPDATE SET
    texts = known.texts + excluded.texts,
    tokens = known.tokens + excluded.tokens,
    usd = known.usd + excluded.usd,
    unpriced_tokens = known.unpriced_tokens + excluded.unpriced_tokens,
    last_day = greatest(known.last_day, excluded.last_day);

-- name: add_day
INSERT INTO usage AS known (tenant, day, stage, model, texts, tokens, calls, usd, unpriced_tokens)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (tenant, day, stage, model) DO UPDATE SET
    texts = known.texts + excluded.texts,
    tokens = known.tokens + excluded.tokens,
    calls = known.calls + excluded.calls,
    usd = known.usd + excluded.usd,
    unpriced_tokens = known.unpriced_tokens + excluded.unpriced_tokens;

-- name: spent
-- Today ($2) and since the first of the month ($3).
SELECT coalesce(sum(usd) FILTER (WHERE day = $2), 0) AS usd_day, coalesce(sum(usd), 0) AS usd_month,
       coalesce(sum(tokens) FILTER (WHERE day = $2), 0)::bigint AS tokens_day,
       coalesce(sum(tokens), 0)::bigint AS tokens_month
FROM usage
WHERE tenant = $1 AND day >= $3;

-- name: spent_in_all
SELECT * FROM spent_in_all($1, $2);

-- name: days
-- The ledger of a tenant from day $2 to day $3; NULL means no limit.
SELECT tenant, day, stage, model, texts, tokens, calls, usd, unpriced_tokens
FROM usage
WHERE tenant = $1 AND ($2::date IS NULL OR day >= $2) AND ($3::date IS NULL OR day <= $3)
ORDER BY day, stage, model;

-- name: documents
-- The most expensive documents of a tenant.
SELECT tenant, document_id, stage, model, texts, tokens, usd, unpriced_tokens, first_day, last_day
FROM usage_document
WHERE tenant = $1
ORDER BY usd DESC, tokens DESC, document_id
LIMIT $2;

-- name: tenants
-- For a login to which row-level security does not apply.
SELECT DISTINCT tenant FROM usage ORDER BY tenant;
