"""How much runs together: chosen from rates, measured over a model of known cost, and kept."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from headrace_embedder import tuning
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.model_batches import OutOfMemory
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.tuning import fastest, measured, sample, tuned
from headrace_embedder.types import Vectors

pytestmark = pytest.mark.unit

USUAL = Caps(4, 1000)


class Clock:
    """The time that passes by running models only."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        return self.seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that is measured with."""
    fake = Clock()
    monkeypatch.setattr(tuning, "perf_counter", fake)
    return fake


class Model:
    """Takes a quarter of a second for each run, whatever is in it; has room for so many texts."""

    def __init__(self, clock: Clock, *, room: int = 1000, together: int = 1) -> None:
        self.clock, self.room = clock, room
        self.runs: list[int] = []
        self._together = threading.Barrier(together)
        self._lock = threading.Lock()

    def encode(self, texts: list[str]) -> Vectors:
        """Return ones after a run, which begins when as many are there as run together."""
        self._together.wait(30)
        with self._lock:
            self.runs.append(len(texts))
            if len(texts) > self.room:
                raise OutOfMemory("full")
            self.clock.seconds += 0.25
        return np.ones((len(texts), 2), np.float32)

    def loaded(self, streams: int = 1, **details: object) -> Loaded:
        """Return the model as a backend gives it."""
        return Loaded(self.encode, TokenCounter(None, None), USUAL, None, details, streams)


def settings(folder: Path) -> EmbedderSettings:
    """Settings that keep things there."""
    return EmbedderSettings(cache_dir=folder)


def test_another_size_than_the_usual_one_has_to_be_clearly_faster() -> None:
    """Noise would choose, and queries wait behind twice as long batches for nothing."""
    usual, double = Caps(4, 100), Caps(8, 200)
    assert fastest({usual: 100.0, double: 109.0}, usual) == usual
    assert fastest({usual: 100.0, double: 111.0}, usual) == double
    assert fastest({double: 10.0}, usual) == double, "the device has no room for the usual one"
    assert fastest({}, usual) == usual


def test_the_same_texts_are_measured_at_each_size_as_the_stage_runs_them(clock: Clock) -> None:
    """A size would win by shorter texts, or by running alone on a device that is shared by two streams."""
    model = Model(clock, together=2)
    rates = measured(model.loaded(streams=2))
    assert [size.texts for size in rates] == [2, 4, 8]
    assert rates[Caps(8, 2000)] > rates[Caps(2, 500)]
    assert sum(model.runs) == 16 * (1 + 3 * 3)
    assert len(set(sample(300))) == 300


def test_on_a_processor_its_own_time_counts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else runs while a machine starts would choose the size, and it would be kept."""
    ticks = itertools.count()
    monkeypatch.setattr(tuning, "process_time", lambda: float(next(ticks)))
    assert set(measured(Model(clock).loaded(device="cpu")).values()) == {8.0}
    assert list(measured(Model(clock).loaded(device="cuda")).values()) == [8.0, 16.0, 32.0]


def test_a_size_without_room_is_left_out_and_a_slow_model_is_not_measured(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that is shared would end the start; a large model would take minutes of it."""
    assert [size.texts for size in measured(Model(clock, room=4).loaded())] == [2, 4]
    assert [size.texts for size in measured(Model(clock, room=3).loaded())] == [2]
    assert measured(Model(clock, room=0).loaded()) == {}
    monkeypatch.setattr(tuning, "LONGEST_S", 0.25)
    slow = Model(clock)
    assert measured(slow.loaded()) == {}
    assert len(slow.runs) <= 2


def test_what_was_measured_is_kept_for_the_same_circumstances_alone(clock: Clock, tmp_path: Path) -> None:
    """Each start would measure anew, or a GPU would run at the size of a processor."""
    first = Model(clock)
    caps = tuned(first.loaded(device="cuda:0", least_cosine=0.9999), settings(tmp_path))
    assert caps == Caps(8, 2000)
    again = Model(clock)
    assert tuned(again.loaded(device="cuda:0", least_cosine=0.9998), settings(tmp_path)) == caps
    assert again.runs == []
    other = Model(clock)
    tuned(other.loaded(device="cuda:1"), settings(tmp_path))
    assert other.runs != []


def test_half_a_file_and_a_folder_that_cannot_be_written_cost_a_measurement_no_more(
    clock: Clock, tmp_path: Path
) -> None:
    """A disk that was full once, or a read-only container, would keep the embedder from starting."""
    tuned(Model(clock).loaded(), settings(tmp_path))
    (file,) = tmp_path.iterdir()
    for text in ('{"texts": 8,', '{"texts": 0, "tokens": 0}', "[]", '{"size": 1}'):
        file.write_text(text)
        assert tuned(Model(clock).loaded(), settings(tmp_path)) == Caps(8, 2000)
    (tmp_path / "file").write_text("")
    assert tuned(Model(clock).loaded(), settings(tmp_path / "file" / "below")) == Caps(8, 2000)
