import pytest

from recbole_sid import resources


def test_the_folder_inside_the_package_goes_before_the_one_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "recbole_sid"
    (tmp_path / "properties").mkdir()
    package.mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.resource_dir("properties") == tmp_path / "properties"
    (package / "properties").mkdir()
    assert resources.resource_dir("properties") == package / "properties"


def test_a_missing_folder_says_that_the_installation_is_incomplete(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "recbole_sid")
    with pytest.raises(FileNotFoundError, match="install it again"):
        resources.resource_dir("properties")
