/* The first of the two objects of a model. SEED is what tells the models apart; every name is the same in all of them. */
#include <stdint.h>

extern int32_t counted_operator(int32_t x);
extern int32_t second_helper(void);
extern int32_t weak_overridden(void);
extern int32_t original(void), alias_of_original(void);
extern int32_t absent(void) __attribute__((weak));
extern int32_t missing_data[] __attribute__((weak));
extern int32_t second_reads_scratch(int32_t index);
extern int32_t second_sum_of_items(void);
extern int32_t g\u00f6\u00dfe_\u03c0(void);
extern int32_t LONG_NAME(void);
extern char absolute_value[];

/* COMMON: larger here, more aligned in the other object. */
int32_t scratch[32];
int32_t order;

__attribute__((weak, noinline)) int32_t weak_twice(void) { return SEED * 10 + 1; }
__attribute__((weak, noinline)) int32_t weak_overridden(void) { return -1; }

static __attribute__((noinline)) int32_t helper(int32_t x) { return x + SEED; }

__attribute__((constructor(202))) static void second(void) { order = order * 10 + 2; }
__attribute__((constructor)) static void third(void) { order = order * 10 + 3; }

static const int32_t first_item __attribute__((section("items"), used)) = SEED;
extern const int32_t __start_items[], __stop_items[];

static int32_t sum_of_items(void) {
  int32_t sum = 0;
  const int32_t* item;
  for (item = __start_items; item < __stop_items; ++item) sum += *item;
  return sum;
}

static int32_t common_storage(void) {
  int32_t before = second_reads_scratch(31);
  scratch[31] += SEED;
  return before * 10 + (((uintptr_t)scratch & 15) == 0);
}

static int32_t (*const volatile table[])(void) = {second_helper, original, weak_twice};
static const char* volatile text = TEXT;
static struct { int32_t weights[4]; } constants __attribute__((section(".rodata.tvm"), aligned(16))) = {{SEED, 2, 3, 4}};
static volatile uintptr_t absolute = (uintptr_t)absolute_value;

int32_t run(int32_t what) {
  switch (what) {
    case 0: return counted_operator(0);
    case 1: return common_storage();
    case 2: return weak_twice();
    case 3: return weak_overridden();
    case 4: return (absent ? absent() : 40 + SEED) + (missing_data ? 1000 : 0);
    case 5: return alias_of_original();
    case 6: return order;
    case 7: return (int32_t)absolute;
    case 8: return helper(100) * 1000 + second_helper();
    case 9: return LONG_NAME() + g\u00f6\u00dfe_\u03c0();
    case 10: return sum_of_items() * 100 + second_sum_of_items();
    case 11: return table[0]() + table[1]() + table[2]();
    case 12: return text[0] * 1000 + text[4];
    case 13: return constants.weights[what - 13] + constants.weights[what - 10];
    default: return -1;
  }
}
