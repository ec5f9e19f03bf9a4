import pytest
from table_scene import make_episode


@pytest.fixture
def episode():
    return make_episode()
