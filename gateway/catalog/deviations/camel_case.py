"""Token responses in camel case: HighLevel under `Version: v3`, HubSpot in places."""

from __future__ import annotations

from gateway.catalog.deviations.deviation import Deviation, Json

_NAMES = {
    "accessToken": "access_token",
    "tokenType": "token_type",
    "expiresIn": "expires_in",
    "refreshToken": "refresh_token",
    "idToken": "id_token",
}


class CamelCaseAnswers(Deviation):
    """`accessToken` for `access_token`; both forms are accepted."""

    def token_response(self, response: Json) -> Json:
        """With the standard names."""
        return {_NAMES.get(name, name): value for name, value in response.items()}
