/* Tail calls in iproute2's way, for tc. */
#define FRONT "classifier"
#define NOT_TAKEN 0 /* TC_ACT_OK */
#define FIRST 2 /* TC_ACT_SHOT */
#define THIRD 3 /* TC_ACT_PIPE */
#include "elf_tail_calls.h"
