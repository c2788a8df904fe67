"""What a blend refuses before it reads anything; what it computes is in test_blend."""

import pytest

from pipelines.blend_run import BlendRun
from recsys import config
from recsys.errors import ConfigError


def test_one_run_is_no_blend() -> None:
    with pytest.raises(ConfigError, match=r"a blend needs two or more\. Example: python -m"):
        BlendRun(config.compose("blend", ["runs=[one]", "tracking=none"]))
