"""Against a real Postgres: the schema, the store over both backends, the commands that work on the database."""
