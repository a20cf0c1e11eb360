#define TRAJCAST_INSTRUCTIONS avx512
#include "energy_impl.h"
