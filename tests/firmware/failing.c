/* Runs a model that fails, and after it another one in the same arena and itself. */
#include "call.h"
#if defined(IS_HOST)
#include <stdio.h>
#else
#include "board.h"
#include "sums.h"
#endif

static struct call first = {&FIRST_MODEL, first_inputs, first_memory, first_expected, 0, {0}, {0}};
static struct call second = {&SECOND_MODEL, second_inputs, second_memory, second_expected, 0, {0}, {0}};

#if defined(IS_HOST)

void say(const char* text) { fputs(text, stdout); }

static int32_t fail(int* has_changed, const uint8_t* stack) {
  (void)stack;
  *has_changed = 0;
  return run(&first);
}

#else

/* What a run of the first model may change. */
static const struct range changeable[] = {{first_memory, sizeof(first_memory)}, FIRST_ARENA};
enum { CHANGEABLE = sizeof(changeable) / sizeof(changeable[0]) };

void say(const char* text) { board_puts(text); }

static __attribute__((noinline)) int32_t fail(int* has_changed, const uint8_t* stack) {
  struct sums before = sum_up(stack, changeable, CHANGEABLE), after;
  int32_t status = run(&first);
  after = sum_up(stack, changeable, CHANGEABLE);
  *has_changed = before.fixed != after.fixed;
  return status;
}

#endif

int main(void) {
  unsigned long changed = 0, wrong = 0;
  int turn;
  if (learn(&first, "first") != 0 || learn(&second, "second") != 0) return 1;
  for (turn = 0; turn < 3; ++turn) {
    int has_changed = 0;
    forget(&first);
    forget(&second);
    first.inputs = bad_inputs;
    say_number("minus", (unsigned long)-fail(&has_changed, __builtin_frame_address(0)));
    changed += has_changed != 0;
    wrong += run(&second) != 0 || !is_right(&second);
    first.inputs = first_inputs;
    forget(&first);
    wrong += run(&first) != 0 || !is_right(&first);
  }
  say_number("changed", changed);
  say_number("wrong", wrong);
  return 0;
}
