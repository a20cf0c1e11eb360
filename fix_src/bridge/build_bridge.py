# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the C source of the bridge.

Usage: python build_bridge.py HEADER OUTPUT.c

The bridge is an extension module of the package. Not one made with cffi's embedding interface:
that waits forever, before Python 3.12, when the process has used Python before the first call.
"""

import re
import sys
from pathlib import Path

import cffi

START = "/* cffi: begin */"
END = "/* cffi: end */"
FUNCTION_POINTER = re.compile(r"int \(\*(\w+)\)(\([^)]*\));")


def main(header: Path, output: Path) -> None:
    """Write the C source that cffi makes of the declarations in a header."""
    declarations = header.read_text().partition(START)[2].partition(END)[0]
    bodies = "".join(
        f'extern "Python" int trajcast_{name}{arguments};\n'
        for name, arguments in FUNCTION_POINTER.findall(declarations)
    )
    ffi = cffi.FFI()
    ffi.cdef(declarations + bodies)
    ffi.set_source("lammps_trajcast._trajcast_bridge", f'#include "{header.name}"')
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
