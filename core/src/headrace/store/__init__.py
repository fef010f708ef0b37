"""The store: documents, chunks, vectors and artifacts in PostgreSQL with pgvector.

The modules, in the order in which a record meets them:

- :mod:`~headrace.store.schema` creates schema, roles and logins (needs the extra ``bootstrap``);
  :mod:`~headrace.store.generations` creates and switches generations of the index;
- :mod:`~headrace.store.pool` opens connections, :mod:`~headrace.store.transactions` binds one to a tenant,
  :mod:`~headrace.store.error_mapping` distinguishes outages from mistakes;
- :mod:`~headrace.store.fence` and :mod:`~headrace.store.plan` decide without a database what a batch changes;
  :mod:`~headrace.store.index` writes it;
- :mod:`~headrace.store.cache`, :mod:`~headrace.store.search`, :mod:`~headrace.store.documents`,
  :mod:`~headrace.store.artifacts` and :mod:`~headrace.store.keys` read and write the rest.

SQL is in named, commented blocks under ``store/sql`` and ``store/migrations``.
"""
