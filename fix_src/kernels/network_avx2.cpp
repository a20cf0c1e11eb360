#define TRAJCAST_INSTRUCTIONS avx2
#include "network_impl.h"
