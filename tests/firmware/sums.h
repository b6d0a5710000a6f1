/* Sums of all memory of a board that is in use, to notice what changes in it. */
#ifndef SUMS_H_
#define SUMS_H_

#include <stddef.h>
#include <stdint.h>

extern uint8_t __data_start[], __bss_end[], __stack_top[];

struct range {
  const uint8_t* start;
  size_t size_bytes;
};

struct sums {
  uint32_t all, fixed; /* `fixed` is without what may change */
};

static int is_within(const uint8_t* at, const struct range* ranges, size_t count) {
  size_t i;
  for (i = 0; i < count; ++i) {
    if (at - ranges[i].start >= 0 && (size_t)(at - ranges[i].start) < ranges[i].size_bytes) return 1;
  }
  return 0;
}

static void add(struct sums* sums, const uint8_t* at, const uint8_t* end, const struct range* changeable, size_t count) {
  for (; at < end; ++at) {
    sums->all = (sums->all ^ *at) * 16777619u;
    if (!is_within(at, changeable, count)) sums->fixed = (sums->fixed ^ *at) * 16777619u;
  }
}

/* Sums up variables, and the stack from `stack` on. */
static __attribute__((noinline)) struct sums sum_up(const uint8_t* stack, const struct range* changeable, size_t count) {
  struct sums sums = {2166136261u, 2166136261u};
  add(&sums, __data_start, __bss_end, changeable, count);
  add(&sums, stack, __stack_top, changeable, count);
  return sums;
}

#endif
