"""HighLevel: accounts that are locations or agencies, and the uninstall call."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

from gateway.catalog.deviations.deviation import (
    AccountLookup,
    ApiRequest,
    Deviation,
    IncomingEvent,
    Json,
    Page,
    SubAccount,
    Topic,
)
from gateway.errors import BadRequest, ProviderGarbled


class HighLevel(Deviation):
    """
    An account is a location or an agency (company), by `userType` alone: location tokens contain `companyId` too.

    An agency has tokens for its locations, and their list; in the form before v3, or in that of v3 where the catalogue's `Version` says so.
    https://marketplace.gohighlevel.com/docs/Authorization/TargetUserSubAccount
    """

    derive_scope = uninstall_scope = "oauth.write"
    list_scope = "oauth.readonly"
    uninstall_warning = "For an agency, that removes it from all its sub-accounts."

    def account_lookup(self, api_base_url: str, response: Json) -> AccountLookup:
        kind = "company" if response.get("userType") == "Company" else "location"
        account_id = quote(str(response.get(f"{kind}Id") or ""), safe="", errors="replace")
        scope, app = str(response.get("scope")).split(), str(response.get("client_id")).partition("-")[0]
        if (
            kind == "company"
            and "companies.readonly" not in scope
            and "marketplace-installer-details.readonly" in scope
        ):
            url, names = f"{api_base_url}/marketplace/app/{quote(app, safe='')}/installations", "installationDetails"
            return AccountLookup(url, ("companyId",), (f"{names}.companyName",), (f"{names}.companyId",))
        path = {"company": "companies", "location": "locations"}[kind]
        url = f"{api_base_url}/{path}/{account_id}"
        return AccountLookup(url, (f"{kind}Id",), (f"{kind}.name",), (f"{kind}.id",))

    def account_kind(self, facts: Json) -> str | None:
        return {"Location": "location", "Company": "agency"}.get(str(facts.get("userType")))

    def has_accounts_below(self, facts: Json) -> bool:
        return facts.get("userType") == "Company"

    def derive_request(self, api_base_url: str, headers: Mapping[str, str], facts: Json, account_id: str) -> ApiRequest:
        """With `companyId` and `locationId` in either form."""
        path = "location-token" if headers.get("Version") == "v3" else "locationToken"
        form = {"companyId": str(facts.get("companyId")), "locationId": account_id}
        return ApiRequest("POST", f"{api_base_url}/oauth/{path}", form=form)

    def list_request(
        self, api_base_url: str, headers: Mapping[str, str], facts: Json, client_id: str, page: Page
    ) -> ApiRequest:
        """Pages are counted before v3, and have a token since. Raises BadRequest for a cursor that is no count."""
        asked = {"companyId": str(facts.get("companyId")), "appId": client_id.partition("-")[0], "isInstalled": "true"}
        if headers.get("Version") == "v3":
            path, part = "installed-locations", {"pageSize": str(page.limit), "pageToken": page.cursor}
        elif not re.fullmatch("[0-9]{0,9}", page.cursor):
            raise BadRequest("the cursor counts nothing", [("cursor", "not a cursor of this list")])
        else:
            path, part = "installedLocations", {"limit": str(page.limit), "skip": page.cursor or "0"}
        query = urlencode({name: value for name, value in (asked | part | {"query": page.search}).items() if value})
        return ApiRequest("GET", f"{api_base_url}/oauth/{path}?{query}")

    def parse_list(self, body: Json, cursor: str) -> tuple[list[SubAccount], str | None]:
        """A location's id is in `_id`."""
        listed = body.get("items", body.get("locations"))
        if not isinstance(listed, list):
            raise ProviderGarbled("the list of locations is none")
        items = [each for each in listed if isinstance(each, Mapping)]
        found = [
            SubAccount(account_id, _text(each, "name") or account_id, _text(each, "address") or "")
            for each in items
            if each.get("isInstalled") is not False and (account_id := _text(each, "_id") or _text(each, "id"))
        ]
        paging, count = body.get("pagination"), body.get("count")
        if isinstance(paging, Mapping):
            return found, _text(paging, "nextPageToken") if paging.get("hasNextPage") else None
        skipped = int(cursor or 0) + len(items)
        return found, str(skipped) if items and isinstance(count, int) and skipped < count else None

    def uninstall(self, api_base_url: str, client_id: str, account_id: str, facts: Json) -> ApiRequest:
        """An app's id is its client id before the hyphen."""
        app = quote(client_id.partition("-")[0], safe="")
        key = "companyId" if facts.get("userType") == "Company" else "locationId"
        return ApiRequest("DELETE", f"{api_base_url}/marketplace/app/{app}/installations", json={key: account_id})

    def incoming_event(self, body: Json) -> IncomingEvent:
        """A flat object. Fields may be missing, even documented ones: nothing but the account is needed."""
        kind = _text(body, "type") or "unknown"
        location, company = _text(body, "locationId"), _text(body, "companyId")
        if kind in ("LocationCreate", "LocationUpdate"):
            location = location or _text(body, "id")
        elif body.get("altType") == "company":
            company = company or _text(body, "altId")
        else:
            location = location or _text(body, "altId")
        is_end = kind == "UNINSTALL"
        fact, name = _CHANGED_FACTS.get(kind, ("", ""))
        changed = _text(body, name)
        return IncomingEvent(
            type=kind,
            accounts=tuple(filter(None, (location, company))),
            id=_text(body, "webhookId"),
            at=_time(body.get("timestamp")),
            app_id=_text(body, "appId"),
            topic=_TOPICS.get(kind),
            is_end=is_end,
            below={"companyId": company} if is_end and company and not location else None,
            facts={fact: changed} if changed else {},
            label=_text(body, "name") if kind == "LocationUpdate" else None,
        )


_TOPICS: Mapping[str, Topic] = {
    "INSTALL": "installation",
    "UNINSTALL": "installation",
    "UPDATE": "version",
    "PLAN_CHANGE": "plan",
    "LocationUpdate": "label",
}
_CHANGED_FACTS = {"UPDATE": ("versionId", "versionId"), "PLAN_CHANGE": ("planId", "newPlanId")}
"""The fact that an event changes, and the field with its new value."""
_LONGEST = 200


def _text(body: Json, name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable() else None


def _time(value: object) -> datetime | None:
    """A whole second is a rounded one. Its end counts, so that the event is not before a connection of the same second."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    found = found.replace(tzinfo=UTC) if found and found.tzinfo is None else found
    return found + timedelta(milliseconds=999) if found and not found.microsecond else found
