"""Settings as a report shows them: every section and key, and no secret. Peers are counted."""

from __future__ import annotations

from pydantic import SecretStr

from vxland.config.settings import Settings, shown
from vxland.model.secrets import MASK, masked


def described(settings: Settings) -> dict[str, dict[str, object]]:
    """Return the value of each setting, by section and key."""
    sections = {name: getattr(settings, name) for name in Settings.model_fields}
    found = {
        name: {key: _described(getattr(section, key)) for key in type(section).model_fields}
        for name, section in sections.items()
    }
    found["registry"]["peers"] = len(settings.registry.peers)
    return found


def _described(value: object) -> object:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    found = shown(value)
    return masked(found) if isinstance(found, str) else found
