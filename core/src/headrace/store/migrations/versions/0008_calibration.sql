-- What random questions find in a tenant's passages, so that search can say that nothing fits (headrace.store.fit).
-- Estimated together with the frequencies of terms.
ALTER TABLE search_statistics
    ADD COLUMN chance_words    real[],  -- share of a random question that the best passage has, by number of terms
    ADD COLUMN chance_unspaced real[],  -- the same for scripts without spaces and Hangul
    ADD COLUMN chance_meaning  real;    -- mean cosine of random questions with the passage that is nearest to each

-- The vectors of questions that no document answers. The embedder writes them, once for each generation.
CREATE TABLE random_question (
    generation text    NOT NULL REFERENCES generation ON DELETE CASCADE,
    number     integer NOT NULL,
    language   text    NOT NULL,
    vector     bytea   NOT NULL,  -- float32, little-endian
    PRIMARY KEY (generation, number)
);
GRANT SELECT, INSERT ON random_question TO headrace_runtime;
