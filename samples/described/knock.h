#ifndef KNOCK_H
#define KNOCK_H

#include <stdint.h>

#define KNOCK_SAMPLES 16
#define KNOCK_UNITS 4

/*
 * Tells a knock from noise. `window` holds `count` samples, which must be KNOCK_SAMPLES, `scratch` has room for
 * KNOCK_UNITS sums; `scores` gets one number for noise and one for a knock. Returns 0, or 1 for another count.
 */
int knock_detect(const int8_t window[1][KNOCK_SAMPLES], int count, int32_t* scratch, int8_t scores[1][2]);

#endif
