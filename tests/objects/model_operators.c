/* The second object of a model; see model_main.c. */
#include <stdint.h>

extern int32_t weak_twice(void);

int32_t scratch[8] __attribute__((aligned(16)));
extern int32_t order;
static int32_t calls;
int32_t buffer[4] = {SEED, SEED, SEED, SEED};

int32_t counted_operator(int32_t x) {
  buffer[1] += SEED;
  return x + buffer[1] * 10 + ++calls;
}

__attribute__((weak, noinline)) int32_t weak_twice(void) { return SEED * 10 + 2; }
__attribute__((noinline)) int32_t weak_overridden(void) { return SEED * 10 + 3; }

static __attribute__((noinline)) int32_t helper(void) { return SEED * 7; }
int32_t second_helper(void) { return helper(); }

__attribute__((noinline)) int32_t original(void) { return SEED * 10 + 4; }
int32_t alias_of_original(void) __attribute__((alias("original")));

__attribute__((constructor(201))) static void first(void) { order = order * 10 + SEED; }

__asm__(".globl absolute_value\n .set absolute_value, 0x1230 + " SEED_TEXT);

static const int32_t second_item __attribute__((section("items"), used)) = SEED * 10;
static const int32_t third_item __attribute__((section("items"), used)) = SEED;
extern const int32_t __start_items[], __stop_items[];

int32_t second_sum_of_items(void) { return (int32_t)(__stop_items - __start_items); }
int32_t second_reads_scratch(int32_t index) { return ((volatile int32_t*)scratch)[index]; }

int32_t g\u00f6\u00dfe_\u03c0(void) { return SEED * 1000; }
int32_t LONG_NAME(void) { return SEED; }

int32_t never_called(void) { return weak_twice() + 1; }
int32_t never_used[1000] = {1};
