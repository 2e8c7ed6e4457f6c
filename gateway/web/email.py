"""
Provider type 2: email Mailboxes and mailing services.
"""

from __future__ import annotations

from gateway.web.connect import make_blueprint

blueprint = make_blueprint(2)
