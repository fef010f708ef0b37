-- Where a document's pages begin, and its language.
ALTER TABLE document
    ADD COLUMN language text      NOT NULL DEFAULT '',     -- BCP 47; empty where it is not known
    ADD COLUMN pages    integer[] NOT NULL DEFAULT '{}';   -- first character of each page, in order
