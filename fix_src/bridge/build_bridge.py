# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the C source of the bridge: python build_bridge.py HEADER OUTPUT.c"""

import sys
from pathlib import Path

import cffi

START = "/* cffi: begin */"
END = "/* cffi: end */"


def main(header: Path, output: Path) -> None:
    declarations = header.read_text().partition(START)[2].partition(END)[0]
    ffi = cffi.FFI()
    ffi.embedding_api(declarations)
    ffi.set_source("_trajcast_bridge", f'#include "{header.name}"')
    ffi.embedding_init_code(
        "from _trajcast_bridge import ffi\n"
        "from lammps_trajcast.runtime.bridge import register\n"
        "register(ffi)\n"
    )
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
