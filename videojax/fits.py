"""python -m videojax.fits DEVICES SLICES --config=FILE --workdir=DIR [--config.a.b=value]

Checks that a command can run on so many devices; the scripts of launch/ ask this before they rent
any. Compiles nothing and takes seconds.
"""

import sys

from videojax import launch
from videojax.io import log
from videojax.plan.topology import check_mesh

REFUSED = 2


def main(argv: list[str]) -> int:
  """Exit code 0: it can; 2: it cannot, with the reason on standard error."""
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
