"""Write couplings.h: the non-zero Clebsch-Gordan coefficients in e3nn's real basis.

Usage: python generate_couplings.py > couplings.h
"""

import torch
from e3nn import o3

LMAX = 3

HEAD = """\
// Written by generate_couplings.py; tests/test_network_kernels.py compares it with e3nn.

#ifndef TRAJCAST_COUPLINGS_H
#define TRAJCAST_COUPLINGS_H

namespace trajcast {

constexpr int kMaxOrder = %d;

// One non-zero Clebsch-Gordan coefficient: rows a, b, c of the orders l1, l2, l3.
struct Term {
  int a, b, c;
  double value;
};

// Terms of the coupling of orders l1 and l2 to l3, sorted by (a, c, b), normalized as e3nn's
// wigner_3j.
template <int L1, int L2, int L3> struct Coupling {
  static constexpr int size = 0;
  static constexpr Term terms[1] = {{0, 0, 0, 0.0}};
};
"""


def couplings() -> str:
    """Return the text of the header."""
    parts = [HEAD % LMAX]
    for l1 in range(LMAX + 1):
        for l2 in range(LMAX + 1):
            for l3 in range(abs(l1 - l2), min(l1 + l2, LMAX) + 1):
                w3j = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
                terms = sorted(
                    torch.nonzero(w3j.abs() > 1e-12).tolist(), key=lambda t: (t[0], t[2], t[1])
                )
                lines = [f"{{{a}, {b}, {c}, {w3j[a, b, c].item()!r}}}," for a, b, c in terms]
                parts.append(
                    f"template <> struct Coupling<{l1}, {l2}, {l3}> {{\n"
                    f"  static constexpr int size = {len(terms)};\n"
                    f"  static constexpr Term terms[size] = {{\n"
                    "      // clang-format off\n"
                    + "".join(f"      {line}\n" for line in lines)
                    + "      // clang-format on\n  };\n};\n"
                )
    parts.append("} // namespace trajcast\n\n#endif\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(couplings(), end="")
