"""Read damaged downloads of every data set of chapter 00g, by hand: python -m tests.fuzz_readers

Truncated and bit-flipped files, half of them in zip archives: each must be read, or end in a
`BadRecording` that names the file; anything else stops the run with its traceback.
"""

import sys
import tempfile
from pathlib import Path

from tests.test_more_readers import CASES, fuzz


def main(count: int):
    for name in sys.argv[2:] or CASES:
        refused = 0
        for packed in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                refused += fuzz(name, packed, Path(folder), count // 2, seed=7)
        print(
            f'{name:12s} {count} damaged downloads: {refused} named errors, {count - refused} read'
        )


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
