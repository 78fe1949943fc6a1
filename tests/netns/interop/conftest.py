"""."""
import pytest
from .lab import X


@pytest.fixture
def xx() -> int:
    """x."""
    return X
