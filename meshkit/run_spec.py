"""The mesh file's fields about runs: who approves them, how their record is signed, who is notified."""

from __future__ import annotations

from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from meshkit.attestation import public_key


class Model(BaseModel):
    """Unknown fields are errors; both spellings (trustDomain, trust_domain) are not: the YAML one is the name."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


def require_address(value: str, example: str) -> None:
    """Require the address of a server, if there is any text.

    Raises:
        ValueError: it is none; it is not quoted.
    """
    parts = urlsplit(value)
    good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or parts.port is None)
    if value and not good:
        raise ValueError(f"expected an address, such as {example}")  # a wrong port raises when it is asked for


class Approvals(Model):
    """Who may approve a plan before it is applied, and how many must.

    `keys` are lines of public keys as ssh-keygen writes them, each with a name: `ssh-ed25519 AAAA… ann`. With `notSelf`
    nobody approves a plan that was made, or is applied, under his own login name.
    """

    needed: int = Field(default=1, ge=1)
    keys: list[str] = Field(min_length=1)
    not_self: bool = Field(default=True, alias="notSelf")

    @field_validator("keys")
    @classmethod
    def _are_keys(cls, lines: list[str]) -> list[str]:
        for line in lines:
            public_key(line)
            if len(line.split()) < 3:
                raise ValueError(f"a key without a name: write it after the key: {line[:32]}… NAME")
        if len({line.split()[1] for line in lines}) < len(lines):
            raise ValueError("a key is listed twice: each stands for one person")
        return lines

    @model_validator(mode="after")
    def _enough_keys(self) -> Self:
        if self.needed > len(self.keys):
            raise ValueError(f"{self.needed} approvals are needed, and there are {len(self.keys)} keys")
        return self

    @property
    def people(self) -> dict[str, str]:
        """Each name's key, as a line."""
        return {line.split(maxsplit=2)[2]: line for line in self.keys}


class Record(Model):
    """Who signs the time of each run's record (RFC 3161), and the roots (PEM) by which that is verified later."""

    timestamp: str = ""
    timestamp_roots: str = Field(default="", alias="timestampRoots")

    @field_validator("timestamp")
    @classmethod
    def _address(cls, value: str) -> str:
        require_address(value, "https://tsa.example/tsr")
        if "@" in urlsplit(value).netloc:
            raise ValueError("expected an address without a user: it becomes part of the evidence")
        return value


class Notify(Model):
    """The webhook that is called at the end of a run, and at which ends.

    Its address may hold a token, so it is never shown, and no part of any evidence.
    """

    url: SecretStr
    on: list[Literal["passed", "failed"]] = Field(default=["passed", "failed"], min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_word(cls, given: Any) -> Any:  # YAML 1.1 reads it as true
        if not isinstance(given, dict):
            return given
        return {"on" if key is True else key: value for key, value in given.items()}

    @field_validator("url")
    @classmethod
    def _address(cls, value: SecretStr) -> SecretStr:
        require_address(value.get_secret_value() or " ", "https://hooks.example/…")
        return value
