-- In template1, so that every database has the extension: only a superuser may create it.

CREATE EXTENSION vector;

