#include "model_throws.h"

int32_t risky(int32_t x) {
  if (x > 0) throw Failure{x * SEED};
  return x;
}

int32_t second_guarded(int32_t x, int32_t* undone) { return guarded(x, undone); }
