import numpy as np
import pytest
from PIL import Image

from data_pipelines import video_cut
from data_pipelines.first_frames import read_film, read_picture
from videojax.errors import ConfigError
from videojax.io import media


@pytest.fixture
def film(tmp_path):
  """12 frames of 48x80 at 12 frames per second, of blocks that move."""
  blocks = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
  still = blocks.repeat(16, 0).repeat(16, 1)
  frames = np.stack([np.roll(still, 4 * t, 1) for t in range(12)])
  media.write_mp4(tmp_path / "film.mp4", frames, fps=12.0)
  return tmp_path / "film.mp4"


@pytest.mark.parametrize("fps", [12.0, 5.0, 15.0])
def test_first_frames_of_a_film_are_those_of_its_first_training_clip(film, tmp_path, fps):
  cutting = video_cut.Cutting(frames=4, size=24, fps=fps, stride=4)
  record = video_cut.cut_file(film, film.name, tmp_path, cutting)
  stored = video_cut.open_frames(video_cut.frames_path(tmp_path, film.name), cutting.size)
  want = stored[record["clips"][0]["rows"]]
  np.testing.assert_array_equal(read_film(film, 4, cutting.size, fps), want)


def test_picture_is_the_frame_that_a_training_image_is(tmp_path):
  path = tmp_path / "a.png"
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)).save(path)
  cutting = video_cut.Cutting(frames=1, size=16, fps=None, stride=1)
  video_cut.cut_file(path, path.name, tmp_path, cutting)
  want = video_cut.open_frames(video_cut.frames_path(tmp_path, path.name), cutting.size)
  np.testing.assert_array_equal(read_picture(path, cutting.size), want)


def test_short_slow_missing_and_foreign_files_are_named(film, tmp_path):
  with pytest.raises(ConfigError, match=r"too few frames per second: the clips have 24"):
    read_film(film, 4, 24, 24.0)
  with pytest.raises(ConfigError, match=r"film.mp4 is too short: 12 of 13 frames"):
    read_film(film, 13, 24, 12.0)
  with pytest.raises(ConfigError, match=r"no.mp4 cannot be read: no such file"):
    read_film(tmp_path / "no.mp4", 1, 24, 12.0)
  with pytest.raises(ConfigError, match=r"film.mp4 is not a picture \(.bmp"):
    read_picture(film, 24)
  (tmp_path / "broken.png").write_bytes(film.read_bytes()[:100])
  with pytest.raises(ConfigError, match=r"broken.png cannot be read: truncated or not an image"):
    read_picture(tmp_path / "broken.png", 24)
