-- name: around
-- Up to $3 chunks on each side of each of these chunks ($2), by their place in the document.
SELECT own.chunk_id AS hit, p.place, o.ordinal, c.section, d.starts[o.ordinal] AS start, d.ends[o.ordinal] AS "end", c.text
FROM chunk AS own
JOIN document AS d ON d.tenant = own.tenant AND d.document_id = own.document_id
CROSS JOIN LATERAL (SELECT array_position(d.chunk_ids, own.chunk_id) AS place) AS p
CROSS JOIN LATERAL generate_series(greatest(p.place - $3, 1), least(p.place + $3, cardinality(d.chunk_ids))) AS o (ordinal)
JOIN chunk AS c ON c.tenant = own.tenant AND c.chunk_id = d.chunk_ids[o.ordinal]
WHERE own.tenant = $1 AND own.chunk_id = ANY ($2::uuid[]) AND o.ordinal <> p.place AND may_read(d.acl)
ORDER BY own.chunk_id, o.ordinal;
