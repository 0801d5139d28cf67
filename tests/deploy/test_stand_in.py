"""How `make image-check` finds what pip needs on this machine."""

from pathlib import Path

from tools.image_check.stand_in import local_folders, pip_settings, pip_volumes


def test_folders_of_wheels_and_of_indexes_are_found() -> None:
    """An index has its files beside it, so its parent is what a build must see; a remote one is no folder."""
    settings = {
        "find-links": "/wheels /more-wheels",
        "index-url": "https://index.example/simple",
        "extra-index-url": "file:///index/simple https://example.com/simple",
    }

    assert [Path("/wheels"), Path("/more-wheels"), Path("/index")] == local_folders(settings)


def test_build_sees_the_settings_and_existing_folders(tmp_path: Path) -> None:
    """pip inside a build is configured as pip outside; a folder that is not there cannot be mounted."""
    (tmp_path / "wheels").mkdir()
    settings = {"find-links": f"{tmp_path}/wheels {tmp_path}/nowhere", "timeout": "60"}

    volumes = pip_volumes(settings, tmp_path / "pip.conf")

    assert f"{tmp_path}/wheels:{tmp_path}/wheels:ro" in volumes
    assert not [volume for volume in volumes if "nowhere" in volume]
    assert "[global]\nfind-links = " in (tmp_path / "pip.conf").read_text("utf-8")
    assert f"{tmp_path}/pip.conf:/etc/pip.conf:ro" == volumes[-1]


def test_build_is_not_told_of_files_that_it_does_not_see(tmp_path: Path) -> None:
    """A constraints file of this machine would fail every installation in the build."""
    pip_volumes({"constraint": "/somewhere/constraints.txt", "timeout": "60"}, tmp_path / "pip.conf")

    assert "[global]\ntimeout = 60\n" == (tmp_path / "pip.conf").read_text("utf-8")


def test_settings_of_this_machine_can_be_read() -> None:
    """Whatever pip is configured with here, the names come without their section."""
    assert not [key for key in pip_settings() if "." in key or ":" in key]
