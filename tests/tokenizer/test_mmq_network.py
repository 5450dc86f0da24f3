from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recbole_sid.tokenizer.mmq_inputs import mean_images, modalities
from recbole_sid.tokenizer.mmq_network import CosineCodebook, Encoded, MixtureNetwork
from tests.tokenizer.mmq_items import catalogue, configured, pictures

WIDTHS = {"text": 3, "image": 2, "behaviour": 2}
# Items: all of it; no image; no behaviour; text alone.
ROWS = torch.tensor(
    [
        [1.0, 2, 3, 4, 5, 3, 4],
        [2.0, 0, 1, 0, 0, 0, 2],
        [1.0, 1, 1, 2, 2, 0, 0],
        [0.0, 5, 0, 0, 0, 0, 0],
    ]
)


def network(**changes) -> MixtureNetwork:
    torch.manual_seed(0)
    made = MixtureNetwork(WIDTHS, configured(text_experts=2, **changes)).eval()
    made.least_norm.fill_(1.0)
    made.most_norm.fill_(5.0)
    for book in made.books:
        book.vectors.data.normal_()
    return made


def test_levels_are_shared_then_the_modalities_that_are_there():
    asked = configured(shared_experts=2, text_experts=1, image_experts=1, behaviour_experts=2)
    assert MixtureNetwork(WIDTHS, asked).levels == [
        "shared", "shared", "text", "image", "behaviour", "behaviour",
    ]  # fmt: skip
    without = MixtureNetwork({"text": 3, "behaviour": 2}, asked)
    assert without.levels == ["shared", "shared", "text", "behaviour", "behaviour"]
    assert without(torch.ones(1, 5)).codes.shape == (1, 5)


def test_the_code_is_the_vector_of_the_largest_cosine():
    book = CosineCodebook(3, 2, "gradient", 0.9)
    book.vectors.data = torch.tensor([[9.0, 9], [0.1, 0], [-1, 0]])
    # By distance the first item would be nearest to code 1, and by inner product the second too.
    items = torch.tensor([[0.2, 0.2], [3.0, 0.1], [-5, 1], [0, 0]])
    assert book.nearest(items).tolist() == [0, 1, 2, 0]


def test_codebooks_start_in_the_directions_of_clusters_at_the_mean_length():
    book = CosineCodebook(3, 2, "ema", 0.9)
    latents = torch.tensor([[2.0, 0], [6, 0], [0, 1], [0, 3]])
    book.start_from(latents, np.random.RandomState(0))
    assert len(book.nearest(latents).unique()) == 2
    lengths = book.vectors[book.nearest(latents)].norm(dim=1)
    assert lengths.tolist() == pytest.approx([3] * 4)
    few = CosineCodebook(3, 2, "ema", 0.9)
    few.start_from(latents[:1], np.random.RandomState(0))
    assert few.vectors[0].tolist() == [2, 0]
    assert few.vectors[1:].abs().max() < 1


def test_every_expert_reads_what_it_is_to():
    made = network()
    with torch.no_grad():
        encoded = made.encode(ROWS)
        hidden = torch.cat([encoded.projected[name] for name in WIDTHS], dim=1)
        shared = made.experts[0](hidden)
        text = made.experts[2](ROWS[:, :3])
        behaviour = made.experts[5](ROWS[:, 5:])
    assert made.levels == ["shared", "text", "text", "image", "behaviour", "behaviour"]
    assert torch.equal(encoded.latents[:, 0], shared)
    assert torch.equal(encoded.latents[:, 2], text)
    assert torch.equal(encoded.latents[:, 5], behaviour)
    present = {name: there.tolist() for name, there in encoded.present.items()}
    assert present["text"] == [True] * 4
    assert present["image"] == [True, False, True, False]
    assert present["behaviour"] == [True, True, False, False]
    # The scaling of this network is none, so the mean vector is zero.
    with torch.no_grad():
        of_mean = made.projections["image"](torch.zeros(2))
    assert torch.allclose(encoded.projected["image"][1], of_mean)


def test_what_is_decoded_is_the_sum_of_weighed_code_vectors():
    made = network()
    with torch.no_grad():
        output = made(ROWS)
        rich = torch.tensor([1.0, 0.25, 0, 0])  # norms 5 and 2 between 1 and 5
        text = made.gates["text"](ROWS[:, :3]).softmax(dim=1)
        routed = rich.sigmoid()[:, None] * made.gates["behaviour"](ROWS[:, 5:]).relu()
        routed[2:] = 0
        assert torch.equal(output.rich, rich)
        damped = (1 / (1 + (9 - 10 * rich).exp())) / torch.tensor(1.0).sigmoid()
        assert torch.allclose(output.strength, damped)
        assert torch.allclose(output.routed, routed)
        assert routed[:2].any()
        image = torch.tensor([1.0, 0, 1, 0])[:, None]
        weights = torch.cat([torch.ones(4, 1), text, image, routed], dim=1)
        vectors = torch.stack([book.vectors for book in made.books])  # (L, K, d)
        sums = torch.stack(
            [
                sum(weights[row, level] * vectors[level, output.codes[row, level]]
                    for level in range(6))
                for row in range(4)
            ]
        )  # fmt: skip
        decoded = torch.cat(list(output.decoded.values()), dim=1)
        assert torch.allclose(decoded, made.decoder(sums), atol=1e-6)
    assert [part.shape[1] for part in output.decoded.values()] == [3, 2, 2]


def test_the_router_starts_open():
    torch.manual_seed(0)
    made = MixtureNetwork({"text": 3, "behaviour": 8}, configured(behaviour_experts=60))
    output = made(torch.randn(50, 11))
    assert (output.routed > 0).float().mean() > 0.8


def test_the_gradient_goes_straight_to_the_experts_and_their_weights():
    made = network()
    output = made(ROWS)
    sum(part.sum() for part in output.decoded.values()).backward()
    assert all(book.vectors.grad is None for book in made.books)
    for part in (*made.experts, *made.gates.values()):
        changed = any(p.grad is not None and p.grad.any() for p in part.parameters())
        # The only expert of a modality has weight 1, whatever its gate says.
        assert changed == (part is not made.gates["image"])


def test_an_item_without_image_and_behaviour_has_no_trace_of_them():
    made = network()
    with torch.no_grad():
        before = made(ROWS)
        for level in (3, 4, 5):
            made.books[level].vectors.data.mul_(7)
        after = made(ROWS)
    for name in WIDTHS:
        assert torch.equal(before.decoded[name][3], after.decoded[name][3])
        assert not torch.equal(before.decoded[name][0], after.decoded[name][0])
    assert before.seen[3].tolist() == [True, True, True, False, False, False]


def test_modalities_are_centred_and_scaled_where_they_are():
    items = catalogue(40)
    vectors = modalities(items)
    made = MixtureNetwork({name: rows.shape[1] for name, rows in vectors.items()}, configured())
    made.scale_to(vectors)
    joined = torch.from_numpy(np.concatenate(list(vectors.values()), axis=1))
    encoded = made.encode(joined)
    known = encoded.present["behaviour"]
    assert (~known).sum() == 4
    assert not encoded.originals["behaviour"][~known].any()
    found = encoded.originals["behaviour"][known]
    assert found.mean(dim=0).abs().max() < 1e-5
    assert found.square().mean().item() == pytest.approx(1, abs=1e-4)
    norms = np.linalg.norm(vectors["behaviour"][known.numpy()], axis=1)
    assert made.least_norm.item() == pytest.approx(norms.min())
    assert made.most_norm.item() == pytest.approx(norms.max())
    share = (norms - norms.min()) / (norms.max() - norms.min())
    assert made.threshold.item() == pytest.approx(10 * np.quantile(share, 0.4), abs=1e-4)
    published = configured(strength_damped=None)
    made = MixtureNetwork({name: rows.shape[1] for name, rows in vectors.items()}, published)
    made.scale_to(vectors)
    assert made.threshold.item() == 9


def test_codebooks_only_follow_items_that_have_the_modality():
    made = network(codebook_update="ema", ema_decay=0.5)
    # Every item gets the code of its own number.
    output = made(ROWS)._replace(codes=torch.arange(4)[:, None].expand(4, 6))
    before = [book.vectors.clone() for book in made.books]
    for book in made.books:
        book.moment.copy_(book.vectors)
    assert made.follow(output, None) == 0
    for level, items in ((0, [0, 1, 2, 3]), (3, [0, 2]), (4, [0, 1])):
        # Mass 1 and one item: mass 1, moment (e + z) / 2.
        expected = before[level].clone()
        expected[items] = (expected[items] + output.encoded.latents[items, level]) / 2
        assert torch.allclose(made.books[level].vectors, expected)


def test_dead_codes_restart_at_latents_of_items_that_have_the_modality():
    made = network()
    output = made(ROWS)
    for book in made.books:
        book.idle.fill_(9)
    restarted = made.follow(output, 3)
    assert restarted > 0
    image = made.books[3].vectors
    latents = output.encoded.latents[:, 3]
    placed = [row for row in range(4) if (image == latents[row]).all(dim=1).any()]
    assert set(placed) <= {0, 2}
    assert placed


def test_codebooks_of_a_modality_start_from_those_that_have_it(monkeypatch):
    made = network()
    sizes = []
    monkeypatch.setattr(
        CosineCodebook, "start_from", lambda self, latents, rng: sizes.append(len(latents))
    )
    made.start_codebooks(ROWS, np.random.RandomState(0))
    assert sizes == [4, 4, 4, 2, 2, 2]
    sizes.clear()
    made.start_codebooks(ROWS[[3]], np.random.RandomState(0))
    assert sizes == [1, 1, 1]


def test_no_weight_of_one_item_alone_is_nan():
    encoded = network().encode(torch.zeros(2, 7))
    assert isinstance(encoded, Encoded)
    assert encoded.latents.isfinite().all()
    output = network()(torch.zeros(2, 7))
    assert all(part.isfinite().all() for part in output.decoded.values())
    assert not output.routed.any()


def test_the_penalty_of_orthogonality_sees_the_last_layers():
    made = network()
    weights = made.output_weights()
    assert [tuple(weight.shape) for weight in weights] == [(4, 12)] * 6
    assert all(isinstance(weight, nn.Parameter) for weight in weights)


def test_the_mean_of_an_item_s_images_and_zero_without():
    images = pictures(6)
    found = mean_images(images)
    assert found.dtype == np.float32
    assert np.array_equal(found[0], images.vectors[0, 0])
    assert found[2] == pytest.approx((images.vectors[2, 0] + images.vectors[2, 1]) / 2)
    assert not found[4:].any()
