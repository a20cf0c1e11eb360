#define TRAJCAST_INSTRUCTIONS avx512
#include "network_impl.h"
