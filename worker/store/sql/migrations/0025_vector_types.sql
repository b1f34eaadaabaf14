-- The type of the vectors is part of a recipe. A vector index may have one bit a number.

UPDATE vector_index.builds SET recipe = recipe || jsonb_build_object(
    'vector_type', CASE WHEN (recipe ->> 'dimensions')::int <= 2000 THEN 'vector' ELSE 'halfvec' END);
ALTER TABLE vector_index.builds ADD COLUMN quantised boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN vector_index.builds.quantised IS 'Whether its vector index has one bit a number, so that searches compare the best candidates again.';
