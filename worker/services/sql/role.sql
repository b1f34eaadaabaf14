-- The role of the workers, no superuser, and its database. An empty line ends a statement.

CREATE ROLE {user} LOGIN CREATEDB CREATEROLE PASSWORD {password};

CREATE DATABASE {database} OWNER {user};

