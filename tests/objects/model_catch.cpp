#include "model_throws.h"

extern int32_t second_guarded(int32_t x, int32_t* undone);

extern "C" int32_t run(int32_t what) {
  int32_t undone = 0;
  int32_t caught = guarded(what, &undone) + second_guarded(what + 1, &undone);
  return caught * 100 + undone;
}

int32_t never_called(int32_t x) {
  try {
    return risky(x);
  } catch (int code) {
    return code;
  }
}
