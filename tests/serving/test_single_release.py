"""Servers of one release each, where another program shifts traffic; and a key that is sent as a password."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr

from serving.http.auth import ApiKeys, MissingKey
from tests.serving.conftest import ServerHome
from tests.serving.sample_rollout import begin
from tests.serving.test_failures import ROW


def test_a_server_for_one_release_answers_with_it_during_its_rollout_and_with_the_champion_otherwise(
    place: ServerHome,
) -> None:
    champion = place.release(version=1)
    place.go_live(champion.digest)
    trial = begin(place, "pinned", seed=1)
    place.start(TRIMTAB_RELEASE=trial.challenger.digest[:12])
    place.wait(lambda: place.post("/predict", ROW)[1]["release"] == trial.challenger.digest, "the release")
    trial.answer(20)
    assert trial.pairs()["by_challenger"].all()
    place.go_live(champion.digest)  # it was rolled back
    place.wait(lambda: place.post("/predict", ROW)[1]["release"] == champion.digest, "the champion")


def test_a_server_for_the_champion_never_answers_with_the_challenger(place: ServerHome) -> None:
    champion = place.release(version=1)
    place.go_live(champion.digest)
    trial = begin(place, "stable", seed=1)
    place.ledger.switch(champion.digest, expected=2, move="canary", reason="test", actor="test", rollout="stable",
                        challenger=trial.challenger.digest, challenger_share=0.9)  # fmt: skip
    place.start(TRIMTAB_RELEASE=champion.digest)
    trial.answer(60)
    assert not trial.pairs()["by_challenger"].any()


def test_a_key_may_be_the_password_in_a_url() -> None:
    keys = ApiKeys(predict=[SecretStr("predict-key")])
    keys.check("/verdict/hooks/rollback", [(b"authorization", b"Basic " + base64.b64encode(b"trimtab:predict-key"))])
    for wrong in (b"Basic " + base64.b64encode(b"predict-key:"), b"Basic ???", b"Basic predict-key"):
        with pytest.raises(MissingKey):
            keys.check("/verdict", [(b"authorization", wrong)])
