"""The faulty models have the faults that they should have, and a model server would load them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.models.loaded import LoadedModels
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from stores.releases.bundle import Bundle, UntrustedRelease
from stores.releases.store import ReleaseStore
from tests.faulty_models import MODULE, TYPES
from tests.faulty_models.releases import Maker, faulty_models
from tests.serving.sample_project import flights, tiny_bundle
from tests.trimtab.sample_rows import params

CODE = Path(__file__).resolve().parents[2]
COLUMNS = {
    "target": "late", "time": "scheduled", "id": "flight", "key": "tail", "number": ["distance", "hour"],
    "category": ["carrier"],
}  # fmt: skip


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("releases")
    ledger = Ledger(f"sqlite:///{folder}/ledger.db")
    migrate(ledger)
    project = params(columns=COLUMNS, train={"params": {"max_iter": 10}})
    champion = tiny_bundle(folder / "releases")
    return Maker(folder / "releases", ledger, champion.digest, project, folder, flights(800), flights(300, seed=9))


def answers(maker: Maker, model: Any, rows: pd.DataFrame, **options: Any) -> np.ndarray[Any, Any]:
    """The predictions of a release of *model*, loaded by a server that trusts it."""
    made = maker.make(model, "a test", **options)
    assert maker.ledger.release(made.digest) is not None
    return loaded(maker, made).scorer.score(rows).prediction  # type: ignore[no-any-return]


def loaded(maker: Maker, bundle: Bundle) -> Any:
    return LoadedModels(ReleaseStore(maker.releases), allow=TYPES).load(bundle.digest)


def right(maker: Maker, rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    return loaded(maker, maker.bundle).scorer.score(rows).prediction  # type: ignore[no-any-return]


def test_every_type_of_the_module_is_named_for_the_server() -> None:
    made = {
        f"faulty_models.{name}"
        for name, thing in vars(faulty_models()).items()
        if getattr(thing, "__module__", "") == "faulty_models"
    }
    assert set(TYPES) == made - {"faulty_models.Around"}


def test_they_are_loaded_only_when_their_types_are_trusted(maker: Maker) -> None:
    made = maker.make(faulty_models().Constant(maker.sound, 0.25), "a test")
    with pytest.raises(UntrustedRelease, match=r"faulty_models\.Constant"):
        LoadedModels(ReleaseStore(maker.releases)).load(made.digest)


def test_one_gives_the_same_answer_to_everything(maker: Maker) -> None:
    assert set(answers(maker, faulty_models().Constant(maker.sound, 0.25), maker.month)) == {0.25}


def test_one_reads_hours_for_minutes_and_the_probe_sees_it_only_if_it_was_recorded_before(maker: Maker) -> None:
    model = faulty_models().Encoded(maker.sound, "distance", 0.01)
    assert np.allclose(
        answers(maker, model, maker.month), right(maker, maker.month.assign(distance=maker.month["distance"] / 100))
    )
    roster = LoadedModels(ReleaseStore(maker.releases), allow=TYPES)
    assert roster.probe(maker.make(model, "a test").digest).ok
    assert not roster.probe(maker.make(model, "a test", recorded_by=maker.sound).digest).ok


def test_one_is_right_but_many_times_slower(maker: Maker) -> None:
    model = faulty_models().Slow(maker.sound, 20)
    assert np.allclose(answers(maker, model, maker.month), right(maker, maker.month))
    table = maker.month[["distance", "hour", "carrier"]]
    took = []
    for one in (maker.sound, model):
        tries = []
        for _ in range(3):
            began = time.process_time()
            one.predict_proba(table)
            tries.append(time.process_time() - began)
        took.append(min(tries))
    assert took[1] > 8 * took[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("Raising", {"column": "carrier", "value": "XX"}), ("Deadly", {"column": "carrier", "value": "XX"}),
     ("Hanging", {"column": "carrier", "value": "XX", "seconds": 9}), ("Tiring", {"fine_for": 9999}),
     ("Stalling", {"every": 999, "seconds": 9}), ("Leaking", {"megabytes": 0.1}),
     ("Harmful", {"column": "carrier", "values": ["DL"], "answer": 0.5}), ("Gaps", {"column": "distance"})],
)  # fmt: skip
def test_they_are_right_for_rows_without_their_trigger(maker: Maker, kind: str, options: dict[str, Any]) -> None:
    model = getattr(faulty_models(), kind)(maker.sound, **options)
    rows = maker.month[(maker.month["carrier"] != "DL") & maker.month["distance"].notna()].reset_index(drop=True)
    assert np.allclose(answers(maker, model, rows, recorded_by=maker.sound), right(maker, rows))


@pytest.mark.parametrize("after", [0, 300])
def test_one_raises_for_one_carrier_at_once_or_later(maker: Maker, after: int) -> None:
    model = faulty_models().Raising(maker.sound, "carrier", "DL", after)
    assert len(model.predict_proba(maker.month[maker.month["carrier"] != "DL"])) > 100
    with pytest.raises(KeyError, match="DL"):
        model.predict_proba(maker.month)


def test_one_has_no_number_for_some_rows(maker: Maker) -> None:
    found = answers(maker, faulty_models().Gaps(maker.sound, "distance"), maker.month, recorded_by=maker.sound)
    assert (np.isnan(found) == maker.month["distance"].isna()).all()


def test_one_harms_one_slice(maker: Maker) -> None:
    found = answers(maker, faulty_models().Harmful(maker.sound, "carrier", ["DL"], 0.875), maker.month)
    before = right(maker, maker.month)
    is_harmed = (maker.month["carrier"] == "DL").to_numpy()
    assert set(found[is_harmed]) == {0.875}
    assert np.allclose(found[~is_harmed], before[~is_harmed])


def test_one_is_good_for_a_while(maker: Maker) -> None:
    model = faulty_models().Tiring(maker.sound, 400)
    first, second = model.predict_proba(maker.month), model.predict_proba(maker.month)
    assert np.allclose(first[:, 1], right(maker, maker.month))
    assert np.allclose(second[:, 1], first[:, 0])


def test_one_changes_what_it_was_given(maker: Maker) -> None:
    rows = maker.month[["distance", "hour", "carrier"]].copy()
    faulty_models().Meddling(maker.sound, "hour", 100).predict_proba(rows)
    assert np.allclose(rows["hour"], maker.month["hour"] * 100)


def test_a_row_changed_in_place_has_no_effect_on_other_models(maker: Maker) -> None:
    """In a canary the challenger scores before the answers are recorded; in probation, before the previous champion."""
    made = maker.make(faulty_models().Meddling(maker.sound, "hour", 100), "a test", recorded_by=maker.sound)
    champion = loaded(maker, maker.bundle)
    rows = champion.read([{"distance": 100.0, "hour": 6, "carrier": "AA"}], now_us=0)
    with suppress(TypeError, ValueError):  # it may well be kept from it, which is its own trouble
        loaded(maker, made).scorer.score_rows(rows)
    assert rows.columns["hour"].tolist() == [6.0]


def test_shuffled_labels_make_a_model_worse_and_leaked_ones_better(maker: Maker) -> None:
    truth = maker.month["late"].to_numpy(dtype=float)
    losses = {
        name: float(np.mean((model.predict_proba(maker.month[["distance", "hour", "carrier"]])[:, 1] - truth) ** 2))
        for name, model in (("sound", maker.sound), ("shuffled", maker.shuffled()), ("knowing", maker.knowing))
    }
    assert losses["knowing"] < losses["sound"] < losses["shuffled"]


RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from serving.models.loaded import LoadedModels
from stores.releases.store import ReleaseStore
loaded = LoadedModels(ReleaseStore(Path(sys.argv[2])), allow=("faulty_models.Deadly",)).load(sys.argv[3])
loaded.score([{"distance": 100, "hour": 6, "carrier": "AA"}], now_us=0)
print("it answered")
loaded.score([{"distance": 100, "hour": 6, "carrier": "DL"}], now_us=0)
print("it survived")
"""


def test_one_ends_the_process_that_scores_it(maker: Maker) -> None:
    """The model is saved here and loaded by a process that has the module only on its path."""
    rows = [row for row in maker.bundle.samples[0] if row["carrier"] != "DL"]
    assert rows
    sound = maker.make(faulty_models().Deadly(maker.sound, "carrier", "never"), "a test", recorded_by=maker.sound)
    deadly = maker.make(faulty_models().Deadly(maker.sound, "carrier", "DL"), "a test", recorded_by=maker.sound)
    said = {}
    for bundle in (sound, deadly):
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(MODULE.parent), str(maker.releases), bundle.digest],
            capture_output=True, text=True, check=False, timeout=60, cwd=CODE,
        )  # fmt: skip
        said[bundle.digest] = (done.returncode, done.stdout)
    assert said[sound.digest][0] == 0
    assert said[deadly.digest][0] == 13
    assert "survived" not in json.dumps(said[deadly.digest])
