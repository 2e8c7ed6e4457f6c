"""
`python -m gateway.database` writes schema.sql anew from the SQL files.
"""

from gateway.database.migrate import PASTED, script

PASTED.write_text(script(), encoding="utf-8")
