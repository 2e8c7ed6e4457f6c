"""HighLevel: accounts that are locations or agencies, and the uninstall call."""

from __future__ import annotations

from urllib.parse import quote

from gateway.catalog.deviations.deviation import AccountLookup, Deviation, Get, Json, Uninstall


class HighLevelAccount(Deviation):
    """
    A location or an agency (company), by `userType` alone: location tokens contain `companyId` too.

    https://marketplace.gohighlevel.com/docs/Authorization/TargetUserSubAccount
    """

    def account_lookup(self, api_base_url: str, response: Json, get: Get | None = None) -> AccountLookup:  # noqa: ARG002
        """By the id in the token response."""
        kind = "company" if response.get("userType") == "Company" else "location"
        account_id = quote(str(response.get(f"{kind}Id") or ""), safe="", errors="replace")
        path = {"company": "companies", "location": "locations"}[kind]
        url = f"{api_base_url}/{path}/{account_id}"
        return AccountLookup(url, (f"{kind}Id",), (f"{kind}.name",), (f"{kind}.id",))

    def account_kind(self, facts: Json) -> str | None:
        """`location` or `agency`."""
        return {"Location": "location", "Company": "agency"}.get(str(facts.get("userType")))


class HighLevelUninstall(Deviation):
    """
    Removes the app from a location, or from an agency and all its locations.

    https://marketplace.gohighlevel.com/docs/ghl/marketplace/uninstall-application
    """

    uninstall_scope = "oauth.write"
    uninstall_warning = "For an agency, that removes it from all its sub-accounts."

    def uninstall(self, api_base_url: str, client_id: str, account_id: str, facts: Json) -> Uninstall:
        """An app's id is its client id before the hyphen."""
        app = quote(client_id.partition("-")[0], safe="")
        key = "companyId" if facts.get("userType") == "Company" else "locationId"
        return Uninstall(f"{api_base_url}/marketplace/app/{app}/installations", {key: account_id})
