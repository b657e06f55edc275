/* Its next version, which has one more map. */
#define NEXT_VERSION
#include "places.h"
