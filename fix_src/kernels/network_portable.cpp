#define TRAJCAST_INSTRUCTIONS portable
#include "network_impl.h"
