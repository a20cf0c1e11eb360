#define TRAJCAST_INSTRUCTIONS portable
#include "convolution_impl.h"
