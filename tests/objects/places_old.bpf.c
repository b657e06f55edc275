/* The object that is loaded first. */
#include "places.h"
