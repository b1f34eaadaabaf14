-- A recipe belongs to every backend that can make its vectors, whatever the settings call the backend.

UPDATE vector_index.builds SET recipe = recipe - 'backend';
