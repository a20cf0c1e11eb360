#define TRAJCAST_INSTRUCTIONS avx512
#include "convolution_impl.h"
