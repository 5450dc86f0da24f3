"""Images of the items on the page: small, part of it, within their bound, or said to be out."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path

import pytest
from PIL import Image

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.page import thumbnails
from recbole_sid.page.thumbnails import draw_thumbnails
from tests.page import made
from tests.page.browser import PATH, Browser
from tests.page.test_report import data_of


def opened(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert image.format == "JPEG"
    return image


def picture(path: Path, size: tuple[int, int] = (300, 150), colour: str = "red") -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def noise(path: Path, seed: int) -> Path:
    """An image that JPEG cannot make small."""
    pixels = random.Random(seed).randbytes(3 * 96 * 96)
    Image.frombytes("RGB", (96, 96), pixels).save(path)
    return path


def test_they_are_small_and_keep_their_form(tmp_path: Path) -> None:
    files = {
        "wide": picture(tmp_path / "wide.png"),
        "tall": picture(tmp_path / "tall.jpg", (40, 400), "blue"),
        "tiny": picture(tmp_path / "tiny.gif", (3, 2), "blue"),
    }
    found = draw_thumbnails(files, 10_000)
    assert found.missing == ""
    assert found.image_of == {"wide": 0, "tall": 1, "tiny": 2}
    shapes = [opened(image).size for image in found.images]
    assert shapes == [(96, 48), (10, 96), (3, 2)]
    assert found.size == sum(map(len, found.images))
    red, green, blue = opened(found.images[0]).getpixel((50, 20))
    assert red > 240
    assert max(green, blue) < 15


def test_what_is_clear_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    palette = Image.new("P", (10, 10), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.gif")
    names = ("clear.png", "palette.gif")
    found = draw_thumbnails({name: tmp_path / name for name in names}, 10_000)
    clear, red = (opened(image).getpixel((5, 5)) for image in found.images)
    assert min(clear) > 250
    assert red[0] > 240
    assert red[1] < 15


def test_one_image_of_many_items_is_held_once(tmp_path: Path) -> None:
    first, same = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    found = draw_thumbnails({"x": first, "y": first, "z": same}, 10_000)
    assert len(found.images) == 1
    assert found.image_of == {"x": 0, "y": 0, "z": 0}


def test_files_that_are_none_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = picture(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "folder.png").mkdir()
    names = ("gone.png", "text.png", "half.png", "folder.png", "good.png")
    found = draw_thumbnails({name: tmp_path / name for name in names}, 10_000)
    assert found.image_of == {"good.png": 0}
    assert found.missing == "4 of 5 files cannot be read, 'gone.png' first"
    # An image of more pixels than Pillow thinks safe.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert draw_thumbnails({"good.png": good}, 10_000).missing.startswith("1 of 1 files cannot be")


def test_they_take_no_more_than_they_may(tmp_path: Path) -> None:
    files = {f"i{n}": noise(tmp_path / f"{n}.png", n) for n in range(5)}
    whole = draw_thumbnails(files, 1_000_000)
    assert len(whole.images) == 5
    room = sum(map(len, whole.images[:3]))
    cut = draw_thumbnails(files, room)
    assert cut.images == whole.images[:3]
    assert cut.size == room
    assert list(cut.image_of) == ["i0", "i1", "i2"]
    assert cut.missing == "2 items go without, since image_bytes allows no more"
    assert draw_thumbnails(files, room - 1).images == whole.images[:2]
    assert draw_thumbnails(files, 0).images == ()


def test_without_pillow_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = picture(tmp_path / "a.png")
    monkeypatch.setattr(thumbnails.importlib.util, "find_spec", lambda name: None)
    found = draw_thumbnails({"x": file}, 10_000)
    assert (found.images, found.image_of) == ((), {})
    assert found.missing == 'Pillow is not installed: pip install "recbole-sid[images]"'
    # Nobody asked for images.
    assert draw_thumbnails({}, 10_000).missing == ""


# -- the page -------------------------------------------------------------------------------------

CELLS = {"i0": "a.png|b.png", "i2": "a.png", "i3": " b.png", "i4": "../../gone <b>.png"}


def imaged(root: Path, name: str, cells: dict[str, str]) -> Path:
    """A folder of ``tokenize`` on data with a column of images."""
    config = made.data_set(root / "data")
    data = root / "data" / "made"
    header, *lines = (data / "made.item").read_text("utf-8").removesuffix("\n").split("\n")
    rows = [f"{line}\t{cells.get(line.partition(chr(9))[0], '')}" for line in lines]
    text = "\n".join([f"{header}\timage:token", *rows]) + "\n"
    (data / "made.item").write_text(text, "utf-8")
    picture(data / "a.png")
    picture(data / "b.png", colour="blue")
    return made.tokenizer(root / name, {**config, "item_image_field": "image"}, made.CODES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """i1 and i5 name no image, that of i4 is gone."""
    return imaged(tmp_path, "t", CELLS)


def test_the_page_holds_the_images(folder: Path) -> None:
    output = folder.parent / "r.html"
    result = recbole_sid.report([folder], output)
    text = output.read_text(encoding="utf-8")
    (items,) = data_of(text)["items"]
    assert items["tokens"] == list(made.CODES)
    assert items["image"] == [0, -1, 0, 1, -1, -1]
    assert [opened(image).size for image in items["images"]] == [(96, 48)] * 2
    said = "Images of made: 1 of 4 files cannot be read, 'gone <b>.png' first"
    assert result["left_out"] == [said]
    assert "gone &lt;b&gt;.png" in text
    again = folder.parent / "again.html"
    recbole_sid.report([folder], again)
    assert again.read_bytes() == output.read_bytes()
    without = recbole_sid.report([folder], output, overwrite=True, image_bytes=0)
    (items,) = data_of(output.read_text(encoding="utf-8"))["items"]
    assert (items["images"], items["image"]) == (None, None)
    assert without["left_out"][0].startswith("Images of made: ")
    with pytest.raises(InputError, match=r"'image_bytes' is -1, but must be at least 0"):
        recbole_sid.report([folder], output, overwrite=True, image_bytes=-1)


def test_data_sets_share_the_bound(folder: Path, tmp_path: Path) -> None:
    second = imaged(tmp_path / "other", "u", {"i5": "a.png"})
    page = tmp_path / "r.html"
    for more, expected in ((0, None), (1_000, [-1, -1, -1, -1, -1, 0])):
        first = draw_thumbnails({n: folder.parent / f"data/made/{n}.png" for n in "ab"}, 10_000)
        room = first.size + more
        result = recbole_sid.report([folder, second], page, overwrite=True, image_bytes=room)
        one, two = data_of(page.read_text(encoding="utf-8"))["items"]
        assert one["image"] == [0, -1, 0, 1, -1, -1]
        assert two["image"] == expected
        said = [line for line in result["left_out"] if "Images of made (2): 1 item" in line]
        assert len(said) == (expected is None)


@pytest.mark.skipif(PATH is None, reason="there is no Chromium")
def test_the_images_in_a_browser(folder: Path) -> None:
    page = folder.parent / "r.html"
    recbole_sid.report([folder], page)
    browser = Browser(folder.parent / "profile", 390)
    try:
        browser.open(page)
        shown = "[...document.querySelectorAll('#tree img')]"
        # i0 stands alone in the tree; the others open with their prefix.
        assert browser.run(f"{shown}.map((i) => i.alt)") == [made.EVIL]
        browser.run("document.querySelector('#tree summary').click()")
        browser.until(f"{shown}.length == 3")
        assert browser.run(f"{shown}.every((i) => i.naturalWidth == 96)") is True
        assert json.dumps(browser.run(f"{shown}.map((i) => i.alt)")) == json.dumps(
            [made.EVIL, "Red tea cups", "Blue tea pot"]
        )
        browser.run("document.querySelectorAll('#tree li button')[0].click()")
        assert browser.run("document.querySelectorAll('#item > img').length") == 1
        assert browser.run("document.documentElement.scrollWidth") <= 390
        assert browser.problems == []
    finally:
        browser.close()
