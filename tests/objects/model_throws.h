/* An inline function with a handler: its exception table is in a COMDAT group, its unwind entry in every object. */
#pragma once
#include <stdint.h>

struct Failure {
  int32_t code;
};
struct OtherFailure {};

extern int32_t risky(int32_t x);

struct Undo {
  int32_t* place;
  ~Undo() { *place += SEED; }
};

__attribute__((noinline)) inline int32_t guarded(int32_t x, int32_t* undone) {
  try {
    Undo undo = {undone};
    return risky(x);
  } catch (const OtherFailure&) {
    return -1;
  } catch (const Failure& failure) {
    return failure.code * 10 + SEED;
  }
}
