"""
Provider type 2: email Mailboxes and mailing services.
"""

from __future__ import annotations

from gateway.web.flow import make_blueprint

blueprint = make_blueprint(2)
