import pytest

from recbole_sid.versions import check_versions

GOOD = {"recbole": "1.2.1", "pandas": "2.3.3", "numpy": "1.26.4", "scipy": "1.12.0"}


def test_installed_versions_are_accepted():
    check_versions()


def test_bounds_are_accepted():
    check_versions(GOOD)


@pytest.mark.parametrize(
    ("name", "version", "remedy"),
    [
        ("pandas", "3.0.0", '"pandas<3"'),
        ("pandas", "3.1.1", '"pandas<3"'),
        ("numpy", "2.0.0rc1", '"numpy<2"'),
        ("scipy", "1.13.0", '"scipy<1.13"'),
        ("recbole", "1.2.0", '"recbole==1.2.1"'),
        ("recbole", "1.2.10", '"recbole==1.2.1"'),
    ],
)
def test_one_breaking_version_is_refused_by_name(name, version, remedy):
    with pytest.raises(ImportError, match=f"{name} {version}") as caught:
        check_versions({**GOOD, name: version})
    assert str(caught.value).endswith(f"pip install {remedy}")


def test_a_missing_package_and_a_wrong_one_come_in_one_message():
    with pytest.raises(ImportError, match="recbole is not installed") as caught:
        check_versions({"pandas": "3.0.0", "numpy": "1.26.4", "scipy": "1.12.0"})
    assert "corrupted without any error" in str(caught.value)
    assert str(caught.value).endswith('pip install "recbole==1.2.1" "pandas<3"')
