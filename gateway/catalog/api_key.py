"""The entry of a provider whose users enter a key, or a user name and a password, of their own."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gateway.catalog.provider import Entry, TokenPlacement, fill, places

KEY_HASH = "{key_hash}"
"""As the id of an account: a keyed hash of the credential, for a provider that names no account. A new key is then a new account."""


class ApiKeyProvider(Entry):
    """
    A provider whose users enter a credential. `userinfo_endpoint` is called to verify it, before it is stored.

    A named group of a field's pattern is a value of its own, and public like the fields that are no secret: URLs, headers and the account may
    use them as `{name}`.
    """

    auth: Literal["api_key", "basic"]
    credential: Annotated[str, StringConstraints(max_length=200)] = ""
    """The credential made of the fields, such as `{account_sid}:{auth_token}`; by default the one secret field."""
    key_help_url: Annotated[str, StringConstraints(pattern=r"^https://[!-~]+$", max_length=300)] | None = None
    """Where the provider shows its users their key."""
    key_help: Annotated[str, StringConstraints(max_length=120)] = ""
    """The way to the key in the provider's own menus."""
    test_mode_words: tuple[str, ...] = ()
    """Words of a refusal of a key of the provider's test mode."""

    rotation_days: Annotated[int, Field(gt=0)] | None = None
    """After how many days the provider advises to replace a key; an event and the doctor say so."""

    scope: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = ()
    scope_texts: ClassVar[Mapping[str, str]] = {}
    revocation_endpoint: ClassVar[None] = None
    authorization_endpoint: ClassVar[None] = None
    login_origins: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[tuple[str, ...]] = ()

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(name for name, field in self.fields.items() if field.secret)

    @property
    def is_pair(self) -> bool:
        """Whether the credential has two parts that its user enters, which may be swapped."""
        return len(places(self.credential)) > 1

    @property
    def public_names(self) -> frozenset[str]:
        """What URLs, headers and the account may use: the other fields, and named groups of patterns."""
        groups = [name for field in self.fields.values() for name in field.pattern.groupindex]
        return frozenset({*groups, *self.fields} - set(self.secrets))

    def missing_scope(self, granted: Collection[str]) -> tuple[str, ...]:  # noqa: ARG002
        """None: what a key allows is chosen at the provider."""
        return ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.secrets:
            raise ValueError("fields need one with secret = true")
        if self.userinfo_endpoint is None:
            raise ValueError("userinfo_endpoint is missing: a key is verified there")
        if not self.credential and len(self.secrets) != 1:
            raise ValueError("credential is missing: it says how the secret fields become one")
        public = (self.userinfo_endpoint, self.api_base_url or "", *self.headers.values())
        account = [path for path in (*self.account.id, *self.account.label) if path != KEY_HASH]
        for text in (*public, *account):
            if unknown := places(text) - self.public_names:
                raise ValueError(f"{{{min(unknown)}}} is no field that may be shown")
        if unknown := places(self.credential) - set(self.fields):
            raise ValueError(f"{{{min(unknown)}}} is no field")
        return self

    @model_validator(mode="before")
    @classmethod
    def _basic_placement(cls, values: Mapping[str, object]) -> Mapping[str, object]:
        return {"token_placement": TokenPlacement(basic=True), **values} if values.get("auth") == "basic" else values

    def credential_of(self, values: Mapping[str, str]) -> str:
        """The credential, as it is stored and sent."""
        return fill(self.credential or f"{{{self.secrets[0]}}}", values) or ""

    def public_values(self, values: Mapping[str, str]) -> dict[str, str]:
        """Those of the form's values that are no secret, and named groups."""
        found = {name: values[name] for name, field in self.fields.items() if not field.secret}
        for name, field in self.fields.items():
            match = field.pattern.fullmatch(values[name])
            found |= match.groupdict() if match else {}
        return found
