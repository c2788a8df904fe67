from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from recsys import native
from recsys.native import load_kernel

needs_compiler = pytest.mark.skipif(
    native._find_compiler() is None, reason="no C++ compiler on this machine"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "recsys"


def write(folder: Path, body: str, name: str = "answer.cpp") -> Path:
    path = folder / name
    path.write_text(body)
    return path


ANSWER = 'extern "C" int answer() { return 42; }'


@needs_compiler
def test_compiles_once_and_reads_the_cache_after(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path, ANSWER)
    library = load_kernel(source)
    assert library is not None
    assert library.answer() == 42
    assert [path.suffix for path in cache.iterdir()] == [".so"]

    def must_not_compile(*arguments: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(native, "_compile", must_not_compile)
    assert load_kernel(source) is not None


@needs_compiler
def test_another_source_or_other_flags_are_another_entry(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_kernel(write(tmp_path, ANSWER))
    load_kernel(write(tmp_path, ANSWER.replace("42", "43")))
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-DOTHER"))
    load_kernel(write(tmp_path, ANSWER))
    assert len(list(cache.iterdir())) == 3


@needs_compiler
def test_a_changed_header_is_another_entry(tmp_path: Path, cache: Path) -> None:
    header = write(tmp_path, "constexpr int ANSWER = 42;", "answer.h")
    source = write(tmp_path, '#include "answer.h"\nextern "C" int answer() { return ANSWER; }')
    first = load_kernel(source)
    header.write_text("constexpr int ANSWER = 43;")
    second = load_kernel(source)
    assert first is not None
    assert second is not None
    assert (first.answer(), second.answer()) == (42, 43)
    assert len(list(cache.iterdir())) == 2


@needs_compiler
def test_code_that_does_not_compile_is_a_warning(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_kernel(write(tmp_path, "not c++")) is None
    assert "answer.cpp could not be built" in caplog.text
    assert "failed with" in caplog.text
    assert list(cache.iterdir()) == [], "nothing half-built stays"


def test_no_compiler_is_a_warning_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        assert load_kernel(write(tmp_path, ANSWER)) is None
    assert "install g++ or set CXX" in caplog.text


def test_the_named_compiler_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    with caplog.at_level(logging.WARNING):
        assert load_kernel(write(tmp_path, ANSWER)) is None
    assert "broken-c++ failed with: no licence" in caplog.text


@needs_compiler
def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", os.devnull)
    with caplog.at_level(logging.WARNING):
        assert load_kernel(write(tmp_path, ANSWER)) is None
    assert os.devnull in caplog.text


@needs_compiler
def test_an_entry_that_cannot_be_loaded_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(source: Path, compiler: str, target: Path) -> None:
        target.parent.mkdir(parents=True)
        target.write_bytes(b"not a library")

    monkeypatch.setattr(native, "_compile", spoil)
    with caplog.at_level(logging.WARNING):
        assert load_kernel(write(tmp_path, ANSWER)) is None
    assert "could not be built" in caplog.text
