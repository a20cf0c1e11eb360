#define TRAJCAST_INSTRUCTIONS portable
#include "energy_impl.h"
