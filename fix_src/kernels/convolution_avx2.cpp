#define TRAJCAST_INSTRUCTIONS avx2
#include "convolution_impl.h"
