"""Any configuration file is read, or refused with problems."""

from __future__ import annotations

import copy

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.configs import MAC1, SOUND, problems
from vxland.config import Settings
from vxland.model.errors import ConfigError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=4)
    | st.dates()
    | st.sampled_from(
        ["10.244.0.0/16", "10.244.1.0/24", "fd00::/64", "192.168.111.128", "fd00::1", MAC1, "auto", "off"]
    )
)
SECTIONS = list(Settings.model_fields)
KEYS = [key for name in SECTIONS for key in type(getattr(Settings(), name)).model_fields]
NAMES = st.sampled_from([*SECTIONS, *KEYS, "vtep"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5) | st.integers(), inner, max_size=6)
    ),
    max_leaves=25,
)


def only_refuses(text: str) -> None:
    """Check that a text gives settings, or problems of one line each."""
    for key, value, remedy in problems(text):
        assert key
        assert remedy
        assert str(ConfigError(key, value, remedy)).isprintable()


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """A file of any characters raises nothing but InvalidConfigError."""
    only_refuses(text)


@given(VALUES)
def test_any_structure_is_read_or_refused(value: object) -> None:
    """Known keys have values of any shape, at any depth."""
    only_refuses(yaml.safe_dump(value))


@given(st.sampled_from(SECTIONS), st.data())
def test_any_value_in_a_sound_file_is_read_or_refused(section: str, data: st.DataObject) -> None:
    """One key of an otherwise valid file has any value."""
    doc = copy.deepcopy(SOUND)
    keys = list(type(getattr(Settings(), section)).model_fields)
    doc.setdefault(section, {})[data.draw(st.sampled_from(keys))] = data.draw(VALUES)
    only_refuses(yaml.safe_dump(doc))


@given(st.text(alphabet="ab:[]{}&*!|>-?,#'\"% \n\t0123456789.", max_size=60))
def test_any_punctuation_is_read_or_refused(text: str) -> None:
    """Anchors, tags, flows and block scalars may end anywhere."""
    only_refuses(text)
