#include "knock.h"

/* A rise and a fall in each quarter of the window. */
static const int8_t filters[KNOCK_UNITS][KNOCK_SAMPLES] = {
    {9, 30, -28, -11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {0, 0, 0, 0, 9, 30, -28, -11, 0, 0, 0, 0, 0, 0, 0, 0},
    {0, 0, 0, 0, 0, 0, 0, 0, 9, 30, -28, -11, 0, 0, 0, 0},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 30, -28, -11},
};
static const int8_t readout[2][KNOCK_UNITS] = {{-20, -15, -15, -20}, {25, 20, 20, 25}};
static const int32_t bias[2] = {60, -40};

static int8_t clipped(int32_t value) {
  return (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
}

int knock_detect(const int8_t window[1][KNOCK_SAMPLES], int count, int32_t* scratch, int8_t scores[1][2]) {
  if (count != KNOCK_SAMPLES) {
    return 1;
  }
  for (int unit = 0; unit < KNOCK_UNITS; ++unit) {
    int32_t sum = 0;
    for (int i = 0; i < count; ++i) {
      sum += filters[unit][i] * window[0][i];
    }
    scratch[unit] = sum > 0 ? sum / 64 : 0;
  }
  for (int score = 0; score < 2; ++score) {
    int32_t sum = bias[score];
    for (int unit = 0; unit < KNOCK_UNITS; ++unit) {
      sum += readout[score][unit] * scratch[unit] / 16;
    }
    scores[0][score] = clipped(sum);
  }
  return 0;
}
