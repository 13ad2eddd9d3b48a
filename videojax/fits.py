"""python -m videojax.fits DEVICES SLICES --config=FILE --workdir=DIR [--config.a.b=value]

Checks whether a command can run on DEVICES devices in SLICES slices; the scripts in launch/ do so
before they rent any. Compiles nothing and takes seconds.
"""

import sys

from videojax import launch
from videojax.io import log
from videojax.plan.topology import check_mesh

REFUSED = 2


def main(argv: list[str]) -> int:
  """Returns exit code 0 if the command can run, else 2, with the reason on standard error."""
  devices, slices = int(argv[1]), int(argv[2])
  try:
    command = launch.parse([argv[0], *argv[3:]])
    if command.flags.mode in launch.MANY:
      check_mesh(command.experiment, devices, slices)
  except ValueError as error:
    log.error(str(error))
    return REFUSED
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
