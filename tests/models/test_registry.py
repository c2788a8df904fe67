"""Targets of a configuration: only this library's own, with hints for the rest."""

import pytest

from recsys.errors import ConfigError
from recsys.models.ctr.fm import FM
from recsys.models.registry import call, import_target


def test_a_target_of_the_library_is_found() -> None:
    assert import_target("recsys.models.ctr.fm.FM") is FM


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "not part of recsys"),
        ("builtins.eval", "not part of recsys"),
        ("recsys", "not part of recsys"),
        ("recsys.models.registry.importlib", "does not define"),
        ("recsys.models.ctr.fm.nn", "does not define"),
        ("recsys.models.ctr.fm._hidden", "not part of recsys"),
        ("recsys.models.ctr.none.FM", "no module"),
        ("recsys.models.ctr.fm.FMM", "Did you mean FM"),
    ],
)
def test_everything_else_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_target(target)


def test_call_names_the_nearest_keyword() -> None:
    def build(size: int, *, depth: int = 1) -> int:
        return size * depth

    assert call(build, {"depth": 3}, {"size": 2}, "ctr") == 6
    with pytest.raises(ConfigError, match=r"ctr\.dept is not.*Did you mean ctr\.depth"):
        call(build, {"dept": 3}, {"size": 2}, "ctr")
    with pytest.raises(ConfigError, match=r"ctr\.size"):
        call(build, {"size": 3}, {"size": 2}, "ctr")
