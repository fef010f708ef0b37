-- What the store holds of these documents of the transaction's tenant, in short.
SELECT document_id, version, deleted, request_id
FROM document
WHERE tenant = $1 AND document_id = ANY ($2)
