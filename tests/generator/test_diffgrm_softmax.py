"""What DiffGRM's ``softmax`` is over and what it leaves alone; the warning of a dedup digit."""

import itertools
import logging
import math

import pytest
import torch

import recbole_sid
from recbole_sid import registry, settings
from recbole_sid.errors import InputError
from recbole_sid.generator.availability import Availability
from recbole_sid.generator.diffgrm import DiffGRMSettings
from recbole_sid.sid.table import SemanticIDs
from tests.generator.catalogues import table
from tests.generator.contracts import USERS
from tests.generator.test_diffgrm import BATCH, PLAIN, SIDS, diffgrm, of_orders
from tests.runs import SMALL
from tests.test_pair_models import vectors


def distinct(sids: SemanticIDs) -> list[int]:
    """An item of every SID."""
    return list({tuple(codes): item for item, codes in enumerate(sids.codes.tolist(), 1)}.values())


def test_over_legal_codes_the_sids_share_out_one_in_every_order():
    model, items = diffgrm(PLAIN), torch.tensor([distinct(PLAIN)] * 3)
    with torch.no_grad():
        scores = [of_orders(model, 0, item) for item in distinct(PLAIN)]
        best = model.log_likelihood(*BATCH, items)
    for order in itertools.permutations(range(3)):
        assert sum(math.exp(one[order]) for one in scores) == pytest.approx(1, abs=1e-4)
    assert (best.exp().sum(dim=1) >= 1).all()
    # The whole digit's gives the same SIDs less: the rest goes to codes that lead nowhere.
    with torch.no_grad():
        whole = diffgrm(PLAIN, softmax="digit").log_likelihood(*BATCH, items)
    assert (best >= whole - 1e-5).all()
    assert (best - whole).mean() > 0.5


def test_what_the_filled_digits_determine_costs_nothing():
    # Either code of the first item is its alone.
    model = diffgrm(table([[0, 0], [1, 1], [1, 2]], (2, 3)), window=2)
    batch = USERS[:1], torch.tensor([[2, 3]]), torch.tensor([2])
    with torch.no_grad():
        memory = model._history(*batch[1:])
        first, second = model._all_logits(memory, torch.zeros(1, 1, 2, dtype=torch.long))
        score = model.log_likelihood(*batch, torch.tensor([[1]]))
    codes = first.log_softmax(dim=-1)[0, 0, 0], second.log_softmax(dim=-1)[0, 0, 0]
    assert score.item() == pytest.approx(max(codes).item(), abs=1e-5)


@pytest.mark.parametrize("at_times", [False, True])
@pytest.mark.parametrize("softmax", ["legal", "digit"])
@pytest.mark.parametrize("sids", [SIDS, PLAIN])
def test_what_is_available_changes_no_score(sids, softmax, at_times):
    model = diffgrm(sids, softmax=softmax, decoder_start="history")
    allowed = torch.arange(26) % 3 > 0
    until = (torch.arange(26) % 4).double()
    times = torch.tensor([1.0, 3.0, 2.0]) if at_times else None
    available = Availability(model.catalogue, allowed, until=until).at(times)
    with torch.no_grad():
        exact = model.log_likelihood(*BATCH, torch.arange(1, 26).expand(3, -1))
        ranked = model.rank(*BATCH, 25, 1000, available)
    for user in range(3):
        there = allowed & (until >= times[user]) if times is not None else allowed
        may = there[1:].nonzero()[:, 0] + 1
        found = ranked.items[user, : len(may)]
        assert sorted(found.tolist()) == may.tolist()
        expected = exact[user, found - 1]
        torch.testing.assert_close(ranked.scores[user, : len(may)], expected, atol=1e-4, rtol=1e-4)


def test_training_does_not_know_it():
    models = [diffgrm(SIDS, softmax=softmax, label_smoothing=0.1) for softmax in ("legal", "digit")]
    losses = [model.prefix_loss(*BATCH, torch.tensor([2, 4, 6])).item() for model in models]
    assert losses[0] == losses[1]


def test_other_generators_values_are_refused():
    values = registry.generator("diffgrm").defaults
    assert values["softmax"] == "legal"
    with pytest.raises(InputError, match=r"'softmax' is 'children'.*legal.*digit"):
        settings.build(DiffGRMSettings, values | {"softmax": "children"})


@pytest.mark.parametrize(("sids", "warned"), [(SIDS, True), (PLAIN, False)])
def test_a_dedup_digit_is_warned_of_once(sids, warned, caplog):
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        diffgrm(sids)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warned
    assert all("set collision: reassign_last" in message for message in messages)


def test_a_run_has_no_dedup_digit_and_is_decoded_either_way(tmp_path, cache, caplog):
    given = {**SMALL, **vectors(tmp_path), "tokenizer": "opq", "tokenizer_levels": 3}
    given |= {"cache_dir": cache, "output": str(tmp_path / "run"), "epochs": 2}
    result = recbole_sid.run("DiffGRM", "ml-100k", config_dict=given)
    sids = SemanticIDs.load(tmp_path / "run" / "sids.json")
    assert (sids.n_levels, sids.collision) == (3, "reassign_last")
    assert "collision: dedup" not in caplog.text
    legal, digit = (
        recbole_sid.evaluate(tmp_path / "run", softmax=softmax, show_progress=False)
        for softmax in ("legal", "digit")
    )
    assert legal["test_result"] == result["test_result"] != digit["test_result"]
    assert digit["settings"]["softmax"] == "digit"
