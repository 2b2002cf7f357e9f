"""Where things are kept between runs."""

from gradcurate.cache import cache_directory


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADCURATE_CACHE", str(tmp_path / "cache"))
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("GRADCURATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(cache_directory()) == "/xdg/gradcurate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_directory()) == "/home/me/.cache/gradcurate"
