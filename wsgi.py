"""
`app`, for any WSGI server. It never starts a database: set DATABASE_URL.
"""

from __future__ import annotations

from gateway import create_app

app = create_app()
