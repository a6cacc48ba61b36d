"""The threat: what may be assumed, in words; what may not, in errors."""

import json

import pytest

from efface.audit.threat import OWN, TRAINED_ON, UNSEEN, VIEWS, Releases, Threat
from efface.errors import AuditError


def test_the_plain_threat_reads_as_before():
    assert Threat("layer2").describe() == (
        "The attacker sees the features at layer2, has no access to the encoder, and learns from labelled pairs (h, z) "
        "of the people the encoder was trained on; the people attacked were never seen in training."
    )
    assert Threat("layer2").releases == Releases("one")
    assert Threat("layer2").trained_on == OWN


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("people", TRAINED_ON)
def test_every_threat_is_one_sentence_and_plain_json(view, people):
    threat = Threat("layer3", view, True, people, Releases("stochastic"))
    values = json.loads(json.dumps(threat.to_dict()))
    assert values["releases"]["kind"] == "stochastic"
    assert people in values["description"]
    assert "can query the encoder" in values["description"]
    assert "averages 50 draws" in values["description"]
    assert ("layer3" in values["description"]) == (view == "features")


def test_releases_know_their_number():
    assert [Releases(kind).draws for kind in ("one", "augmented", "stochastic")] == [1, 10, 50]
    assert Releases("stochastic", 7).draws == 7
    assert "averages 3 releases" in Threat("l", releases=Releases("augmented", 3)).describe()
    assert Releases().describe() == "sees one release of each person"


def test_all_problems_are_told_at_once():
    with pytest.raises(AuditError, match=r"(?s)2 problems.*Did you mean 'logits'.*trained_on.*" + UNSEEN):
        Threat("layer2", view="logit", trained_on="people the encoder saw")
    with pytest.raises(AuditError, match=r"(?s)3 problems.*'augmented'.*count.*shift"):
        Releases("augmentd", count=-1, shift=-2)
    with pytest.raises(AuditError, match="from 0 to 10 where releases are 'augmented', but got 50"):
        Releases("augmented", 50)
    with pytest.raises(AuditError, match="False unless releases are 'stochastic'"):
        Releases("one", dropout=True)
