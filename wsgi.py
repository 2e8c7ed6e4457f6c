"""
`app`, for any WSGI server. It never starts a database: set DATABASE_URL, or SUPABASE_URL and SUPABASE_SECRET_KEY.
"""

from __future__ import annotations

from gateway import create_app

app = create_app()
