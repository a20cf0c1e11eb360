#define TRAJCAST_INSTRUCTIONS avx2
#include "energy_impl.h"
