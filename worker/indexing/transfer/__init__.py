"""Export and import: an index as JSON lines, with its vectors."""
