import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from tests.generator.catalogues import random_table, table, tiger
from tests.generator.contracts import packed_is_prefix_training

SIDS = random_table(np.random.default_rng(4), 25, (4, 5, 3), "dedup")
USERS = torch.tensor([1, 2, 3])
HISTORY = torch.tensor([[3, 7, 1, 0], [9, 0, 0, 0], [5, 6, 7, 8]])
LENGTHS = torch.tensor([3, 1, 4])


@pytest.mark.parametrize(
    ("history_tokens", "softmax"), [("codes", "level"), ("items", "level"), ("items", "children")]
)
@pytest.mark.parametrize("user_tokens", [0, 5])
@pytest.mark.parametrize("collision", ["none", "dedup"])
@pytest.mark.parametrize(
    ("decoder_start", "item_embedding", "together"),
    [("learned", False, None), ("history", True, None), ("history", True, 2)],
)
def test_packed_and_prefix_training_have_the_same_loss_and_gradients(
    user_tokens, collision, history_tokens, softmax, decoder_start, item_embedding, together
):
    sids = random_table(np.random.default_rng(1), 25, (4, 5, 3), collision)
    model = tiger(
        sids,
        window=6,
        user_tokens=user_tokens,
        history_tokens=history_tokens,
        softmax=softmax,
        decoder_start=decoder_start,
        item_embedding=item_embedding,
    )
    packed_is_prefix_training(model, together, tolerance=1e-6)


def test_positions_without_a_target_carry_no_loss():
    model = tiger(SIDS)
    history, places = torch.tensor([[3, 7, 1, 2]]), torch.tensor([[3, 0, 2]])
    loss = model.packed_loss(USERS[:1], history, places, torch.tensor([[9, 0, 4]]))
    parts = [
        model.prefix_loss(
            USERS[:1], torch.tensor([[3, 7, 1, 2]]), torch.tensor([n]), torch.tensor([target])
        )
        for n, target in [(3, 4), (4, 9)]
    ]
    assert loss.item() == pytest.approx(torch.stack(parts).mean().item(), abs=1e-6)


def test_loss_is_the_mean_negative_log_likelihood_of_the_codes():
    model = tiger(SIDS)
    targets = torch.tensor([2, 4, 6])
    loss = model.prefix_loss(USERS, HISTORY, LENGTHS, targets)
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, targets[:, None])
    assert loss.item() == pytest.approx(-scores.mean().item() / SIDS.n_levels, abs=1e-6)


def test_without_mass_on_missing_sids_the_likelihoods_of_all_items_sum_to_one():
    everything = torch.arange(1, 26).expand(3, 25)
    model = tiger(SIDS, softmax="children")
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, everything)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(3))
    level = tiger(SIDS, softmax="level").log_likelihood(USERS, HISTORY, LENGTHS, everything)
    assert (level.exp().sum(dim=1) < 0.9).all()


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("collision", ["none", "dedup"])
@pytest.mark.parametrize("softmax", ["level", "children"])
@pytest.mark.parametrize("decoder_start", ["learned", "history"])
def test_beam_search_of_the_network_is_its_brute_force_ranking(
    attention, collision, softmax, decoder_start
):
    sids = random_table(np.random.default_rng(2), 25, (3, 3), collision)
    model = tiger(
        sids,
        encoder_attention=attention,
        training="prefix",
        user_tokens=3,
        softmax=softmax,
        decoder_start=decoder_start,
    )
    n = sids.n_items
    with torch.no_grad():
        everything = torch.arange(1, n + 1).expand(3, n)
        exact = model.log_likelihood(USERS, HISTORY, LENGTHS, everything)
        for width in (2, 5, n):
            ranked = model.rank(USERS, HISTORY, LENGTHS, n, width)
            for user in range(3):
                items = ranked.items[user][ranked.items[user] > 0]
                torch.testing.assert_close(
                    ranked.scores[user, : len(items)],
                    exact[user, items - 1],
                    atol=1e-5,
                    rtol=1e-5,
                )
        order = np.lexsort([np.array(sids.tokens), -exact[0].numpy().round(4)])
        assert ranked.items[0].tolist() == (order + 1).tolist()


def test_padding_and_the_rest_of_the_batch_change_nothing():
    for attention in ("causal", "bidirectional"):
        model = tiger(SIDS, encoder_attention=attention, training="prefix")
        items = torch.tensor([[1, 2]] * 3)
        together = model.log_likelihood(USERS, HISTORY, LENGTHS, items)
        for row in range(3):
            length = int(LENGTHS[row])
            alone = model.log_likelihood(
                USERS[row : row + 1],
                HISTORY[row : row + 1, :length],
                LENGTHS[row : row + 1],
                items[:1],
            )
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_causal_history_token_ignores_later_items_and_a_bidirectional_one_does_not():
    changed = HISTORY.clone()
    changed[2, 3] = 20
    for attention, same in (("causal", True), ("bidirectional", False)):
        model = tiger(SIDS, encoder_attention=attention, training="prefix")
        before = model._encode(USERS, HISTORY, LENGTHS)[2, : 3 * SIDS.n_levels]
        after = model._encode(USERS, changed, LENGTHS)[2, : 3 * SIDS.n_levels]
        assert torch.allclose(before, after, atol=1e-6) is same


def test_tokens_of_one_item_see_each_other():
    # Items 1 and 2 differ in their last code only: the first token of the item must notice.
    model = tiger(table([[0, 1, 0], [0, 1, 2]], (2, 2, 3)))
    one = torch.ones(1, dtype=torch.int64)
    first = model._encode(one, torch.tensor([[1]]), one)[0, 0]
    second = model._encode(one, torch.tensor([[2]]), one)[0, 0]
    assert not torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("history_tokens", ["codes", "items"])
def test_an_item_embedding_is_added_to_every_token_of_its_item(history_tokens):
    with_it = tiger(SIDS, history_tokens=history_tokens, item_embedding=True)
    without = tiger(SIDS, history_tokens=history_tokens)
    shared = without.load_state_dict(with_it.state_dict(), strict=False)
    assert shared.unexpected_keys == ["item_embedding.weight"]
    inputs = []
    for model in (with_it, without):
        model.encoder[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        model._encode(USERS, HISTORY, LENGTHS)
    per_item = SIDS.n_levels if history_tokens == "codes" else 1
    added = with_it.item_embedding(HISTORY).repeat_interleave(per_item, dim=1)
    torch.testing.assert_close(inputs[0] - inputs[1], added)


def test_the_decoder_starts_from_the_state_of_the_last_item():
    # With one decoder layer whose sublayers add nothing, level 0 sees that state alone.
    model = tiger(SIDS, decoder_start="history", decoder_layers=1)
    for name, weight in model.decoder.named_parameters():
        if ".output." in name or ".outer." in name:
            weight.data.zero_()
    encoded = model._encode(USERS, HISTORY, LENGTHS)
    last = encoded[torch.arange(3), LENGTHS * SIDS.n_levels - 1]
    hidden = model._decode(model._history(USERS, HISTORY, LENGTHS), torch.tensor([[1], [2], [3]]))
    expected = model.decoder_norm(last + model.target_level.weight[0])
    torch.testing.assert_close(hidden[:, 0, 0], expected)


def test_one_token_an_item_is_the_sum_of_its_codes_at_the_scale_of_one():
    model = tiger(SIDS, history_tokens="items", encoder_layers=1)
    seen = []
    model.encoder[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    encoded = model._encode(USERS, HISTORY, LENGTHS)
    assert encoded.shape == (3, 4, 16)
    tokens = model.token_embedding(model.catalogue.tokens[HISTORY[2, 1]])  # (L, hidden)
    expected = tokens.sum(dim=0) / SIDS.n_levels**0.5 + model.item_position.weight[1]
    torch.testing.assert_close(seen[0][2, 1], expected)


def test_users_share_tokens_by_their_bucket():
    model = tiger(SIDS, user_tokens=7)  # every bucket is a multiple of 7: all users share token 0
    alike = torch.tensor([1, 2, 3])
    items = torch.tensor([[1]] * 3)
    same = model.log_likelihood(alike, HISTORY[:1].expand(3, -1), LENGTHS[:1].expand(3), items)
    assert torch.allclose(same, same[0], atol=1e-6)
    model = tiger(SIDS, user_tokens=5)
    other = model.log_likelihood(alike, HISTORY[:1].expand(3, -1), LENGTHS[:1].expand(3), items)
    assert not torch.allclose(other, other[0], atol=1e-4)


def test_embeddings_start_at_the_scale_that_is_set():
    model = tiger(SIDS, hidden_size=64, window=50, embedding_init=0.5, position_init=0.2)
    weight = model.token_embedding.weight
    assert weight[0].abs().sum() == 0
    assert weight[1:].std().item() == pytest.approx(0.5, rel=0.1)
    assert model.item_position.weight.std().item() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": "packed", "encoder_attention": "bidirectional"}, "causal encoder"),
        ({"dropout": 1.0}, "dropout"),
        ({"n_heads": 0}, "n_heads"),
        ({"window_stride": 0}, "window_stride"),
        ({"window_targets": 0}, "window_targets"),
        ({"embedding_init": 0.0}, "embedding_init"),
    ],
)
def test_settings_out_of_bounds_are_named(changes, named):
    with pytest.raises(InputError, match=named):
        tiger(SIDS, **changes)
