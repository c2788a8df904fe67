"""What is printed, where, and how often."""

import io
import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from recsys.errors import ConfigError
from recsys.tracking.console import Console, Remaining, memory_in_use


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def step(number: int, data_share: float = 0.05) -> SimpleNamespace:
    return SimpleNamespace(
        step=number,
        total_steps=1000,
        epoch=0,
        loss=0.5,
        grad_norm=1.0,
        lr=1e-3,
        rows_per_second=1e5,
        data_share=data_share,
        eta_seconds=60.0,
    )


def evaluation(number: int, auc: float, improved: bool) -> SimpleNamespace:
    return SimpleNamespace(
        step=number, epoch=1, metrics={"auc": auc, "logloss": 0.3}, improved=improved
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plain(clock) -> Console:
    return Console("plain", stream=io.StringIO(), clock=clock, memory=lambda: 2**30)


def output(console: Console) -> list[str]:
    return console._stream.getvalue().splitlines()


class TestPlain:
    def test_first_step_always_then_every_ten_seconds(self, plain, clock):
        for number in range(1, 61):
            plain.step(step(number))
            clock.now += 1.0
        shown = [int(re.match(r"step (\d+)/", line)[1]) for line in output(plain)]
        assert shown == [1, 11, 21, 31, 41, 51]

    def test_first_step_is_shown_even_right_after_preparation(self, plain, clock):
        plain.preparing(0, 100, "read")
        clock.now += 5
        plain.preparing(50, 100, "read")
        plain.step(step(1))
        assert [line.split()[0] for line in output(plain)] == ["read", "step"]

    def test_what_is_counted_need_not_be_rows(self, plain, clock):
        plain.preparing(0, 3, "EASE", "parts")
        clock.now += 20
        plain.preparing(1, 3, "EASE", "parts")
        clock.now += 20
        plain.preparing(3, 3, "EASE", "parts")
        lines = output(plain)
        assert lines[0].startswith("EASE  1/3 parts (33%)")
        assert lines[-1].startswith("EASE  3 parts in")

    def test_validations_are_always_shown(self, plain):
        plain.evaluation(evaluation(10, 0.70, improved=True))
        plain.evaluation(evaluation(20, 0.72, improved=True))
        plain.evaluation(evaluation(30, 0.71, improved=False))
        plain.evaluation(evaluation(40, 0.73, improved=True))
        auc = [re.search(r"auc [^)]*\)", line)[0] for line in output(plain)]
        assert auc == [
            "auc 0.70000 (best)",
            "auc 0.72000 (+0.02000 best)",
            "auc 0.71000 (-0.01000)",
            "auc 0.73000 (+0.01000 best)",
        ]

    def test_slow_data_is_hinted_at_once(self, plain, clock):
        plain.step(step(5, data_share=0.9))  # not settled yet
        for number in range(20, 30):
            plain.step(step(number, data_share=0.35))
        hints = [line for line in output(plain) if "waits for data" in line]
        assert len(hints) == 1
        assert "35%" in hints[0]
        assert "trainer.prefetch" in hints[0]

    def test_table_and_notes(self, plain):
        plain.banner("recsys")
        plain.table("Data", ["split", "rows"], [["train", "10"]])
        plain.note("a [b] c")
        assert output(plain) == [
            "recsys",
            "Data",
            "split  rows",
            "-----  ----",
            "train    10",
            "",
            "a [b] c",
        ]

    def test_is_plain_ascii(self, plain):
        tell_everything(plain)
        text = plain._stream.getvalue()
        assert text.isascii()
        assert "\x1b" not in text
        assert "\r" not in text

    def test_preparing(self, plain, clock):
        for done in range(0, 101, 5):
            plain.preparing(done, 100, "read")
            clock.now += 2.0
        assert output(plain) == [
            "read  5/100 rows (5%)  eta ?",
            "read  30/100 rows (30%)  eta 28s",
            "read  55/100 rows (55%)  eta 18s",
            "read  80/100 rows (80%)  eta 8s",
            "read  100 rows in 40s",
        ]

    def test_quick_preparation_is_silent(self, plain, clock):
        for stage in ("read", "write"):
            for done in range(0, 101, 10):
                plain.preparing(done, 100, stage)
                clock.now += 0.1
        assert output(plain) == []

    def test_empty_preparation(self, plain):
        plain.preparing(0, 0, "read")
        assert output(plain) == []


def tell_everything(console: Console) -> None:
    """Every method once, with what a run would pass."""
    with console:
        console.banner("recsys 0.1 - AutoInt on frappe - cpu - seed 0")
        console.preparing(0, 100, "read")
        console.preparing(50, 100, "read")
        console.preparing(100, 100, "read")
        store = SimpleNamespace(num_rows=10)
        console.prepared(
            SimpleNamespace(
                name="frappe",
                stores={"train": store},
                summary=({"column": "user [id]", "codes": 7},),
                notes=("reconstructed train negatives",),
            )
        )
        lookup = SimpleNamespace(schema=[], layout=SimpleNamespace(num_rows=100))
        memory = {"weights": 400, "optimizer": 800, "serving": 400}
        console.model("AutoInt", lookup, {"embedding": 100, "dense": 10}, memory)
        console.step(step(1))
        console.step(step(500, data_share=0.5))
        console.evaluation(evaluation(500, 0.7, improved=True))
        console.evaluation(evaluation(600, 0.6, improved=False))
        console.result(
            {
                "run_id": "abc",
                "model": "autoint",
                "data": "frappe",
                "metrics": {"test": {"auc": 0.7}},
                "num_parameters": 110,
                "epochs": 1,
                "steps": 1_200,
                "fit_seconds": 1.0,
                "train_rows_per_second": 1e5,
                "peak_memory_mib": 100.0,
            },
            "outputs/frappe",
        )


class TestRich:
    @pytest.fixture(autouse=True)
    def wide_terminal(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "140")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)

    def test_everything_is_shown(self):
        console = Console("rich", stream=Terminal())
        tell_everything(console)
        text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console._stream.getvalue())
        for piece in (
            "AutoInt on frappe",
            "user [id]",
            "reconstructed train negatives",
            "epoch 1",
            "step 500/1,000 (50%)  loss 0.5000",
            "waits for data 50%",
            "0.70000",
            "★ best",
            "-0.10000",
            "run=abc",
        ):
            assert piece in text, piece

    def test_the_validation_table_has_one_head(self):
        console = Console("rich", stream=Terminal())
        for number in (1, 2, 3):
            console.evaluation(evaluation(number, 0.7, improved=False))
        assert console._stream.getvalue().count("logloss") == 1

    def test_live_line_is_taken_down(self):
        console = Console("rich", stream=Terminal())
        console.step(step(1))
        assert console._live is not None
        console.close()
        assert console._live is None
        assert console._stream.getvalue().endswith("\x1b[1A\x1b[2K")  # the line is erased
        console.close()  # again is harmless

    def test_live_line_fits_a_narrow_terminal(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        console = Console("rich", stream=Terminal())
        with console:
            console.step(step(500))
        text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console._stream.getvalue())
        assert "eta 1m" in text
        assert "…" not in text

    def test_no_color(self, monkeypatch):
        monkeypatch.setenv("NO_COLOR", "1")
        console = Console("rich", stream=Terminal())
        tell_everything(console)
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", console._stream.getvalue())


class TestChoice:
    def test_none_is_silent(self, capsys):
        stream = io.StringIO()
        tell_everything(Console("none", stream=stream))
        assert stream.getvalue() == ""
        assert capsys.readouterr() == ("", "")

    def test_auto(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        assert Console(stream=Terminal()).kind == "rich"
        assert Console(stream=io.StringIO()).kind == "plain"
        monkeypatch.setenv("TERM", "dumb")
        assert Console(stream=Terminal()).kind == "plain"

    def test_unknown_kind(self):
        with pytest.raises(ConfigError, match=r'console="plan".*Did you mean plain'):
            Console("plan")

    def test_in_a_pipe_and_in_a_terminal(self):
        """The same program, its output once piped and once to a pseudo-terminal."""
        code = (
            "from tests.tracking.test_console import tell_everything\n"
            "from recsys.tracking.console import Console\n"
            "tell_everything(Console())\n"
        )
        command = [sys.executable, "-c", code]
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
        piped = subprocess.run(command, capture_output=True, env=environment, check=True).stdout
        assert b"\x1b" not in piped
        assert b"step 1/1,000" in piped
        master, slave = pty.openpty()
        with subprocess.Popen(command, stdout=slave, env=environment) as process:
            os.close(slave)
            shown = b""
            while True:
                try:
                    block = os.read(master, 65536)
                except OSError:  # Linux reports the closed side of a terminal as an error
                    break
                if not block:
                    break
                shown += block
        os.close(master)
        assert process.returncode == 0
        assert b"\x1b[" in shown
        assert b"AutoInt on frappe" in shown


class TestRemaining:
    def test_constant_speed_after_a_slow_start(self):
        left = Remaining(now=0.0)
        left.seconds(done=10, total=100, now=60.0)
        for done in range(20, 101, 10):
            assert left.seconds(done, 100, now=60.0 + (done - 10) / 10) == pytest.approx(
                (100 - done) / 10
            )

    def test_nothing_done_is_unknown(self):
        left = Remaining(now=0.0)
        assert left.seconds(0, 100, 5.0) != left.seconds(0, 100, 5.0)  # NaN
        assert left.seconds(1, 100, 5.0) != 0


def test_memory_in_use():
    import psutil

    assert 2**20 < memory_in_use() < psutil.virtual_memory().total
