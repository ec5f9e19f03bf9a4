"""Write transferred copies of an episode until killed: keep_writing.py SOURCE.

Each line of standard input names a folder; a forked child that writes there is told by its process id and,
when it was killed, by a last line that ends what it told of finished files.
"""

import itertools
import os
import sys
from pathlib import Path

from guided_transfer.episodes import EpisodeFile, open_episodes, write_transferred


def write_forever(file: EpisodeFile, folder: Path) -> None:
    frames = {demo: {n: 255 - v.rgb for n, v in file.read(demo).views.items()} for demo in file.demos}
    print(os.getpid(), flush=True)
    for index in itertools.count():
        write_transferred(file, folder / f"data_{index}.hdf5", frames, {})
        print(f"data_{index}.hdf5", flush=True)


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        with open_episodes(sys.argv[1], trusted=True) as file:
            write_forever(file, Path(line.rstrip("\n")))
    os.waitpid(child, 0)
    print("\nkilled", flush=True)
