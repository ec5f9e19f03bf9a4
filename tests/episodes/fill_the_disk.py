"""Write transferred copies where files may not grow beyond some sizes: fill_the_disk.py SOURCE TARGET BYTES..."""

import resource
import sys
from pathlib import Path

from guided_transfer.episodes import open_episodes, write_transferred
from guided_transfer.errors import OutputError

with open_episodes(Path(sys.argv[1])) as file:
    frames = {demo: {n: v.rgb for n, v in file.read(demo).views.items()} for demo in file.demos}
    for limit in sys.argv[3:]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        try:
            write_transferred(file, Path(sys.argv[2]), frames, {})
        except OutputError as error:
            print(error)
