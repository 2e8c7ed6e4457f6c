"""`python -m gateway.database` writes schema.sql and the Supabase migration anew from the SQL files."""

from gateway.database.migrate import write_generated

write_generated()
