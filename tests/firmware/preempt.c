/* Runs a model again and again; each time a timer interrupts it at another point and runs a second model there. */
#include "board.h"
#include "call.h"
#include "semihosting.h"
#include "sums.h"

static struct call first = {&FIRST_MODEL, first_inputs, first_memory, first_expected, 0, {0}, {0}};
static struct call second = {&SECOND_MODEL, second_inputs, second_memory, second_expected, 0, {0}, {0}};

/* What a run of the second model may change, beside stack that nobody uses. */
static const struct range changeable[] = {{second_memory, sizeof(second_memory)}, SECOND_ARENA};
enum { CHANGEABLE = sizeof(changeable) / sizeof(changeable[0]) };

static volatile int is_inside;
static volatile int is_fired;
static volatile int has_changed;
static volatile int32_t status_of_second;

void say(const char* text) { board_puts(text); }

static __attribute__((noinline)) void interrupted(const uint8_t* stack) {
  struct sums before = sum_up(stack, changeable, CHANGEABLE), after;
  int32_t status = run(&second);
  after = sum_up(stack, changeable, CHANGEABLE);
  has_changed = status == MLF_ERROR_ARENA_BUSY ? before.all != after.all : before.fixed != after.fixed;
  status_of_second = status;
  is_fired = 1;
}

#if defined(__arm__)

#define SYST_CSR (*(volatile uint32_t*)0xe000e010)
#define SYST_RVR (*(volatile uint32_t*)0xe000e014)
#define SYST_CVR (*(volatile uint32_t*)0xe000e018)
#define ICSR (*(volatile uint32_t*)0xe000ed04)
enum { TICKS_MOST = 0xffffff };

void _start(void);

static void start_timer(uint32_t ticks, int is_loud) {
  SYST_RVR = ticks;
  SYST_CVR = 0;
  SYST_CSR = is_loud ? 7 : 5;
}

static uint32_t stop_timer(void) {
  uint32_t left = SYST_CVR;
  SYST_CSR = 0;
  ICSR = UINT32_C(1) << 25; /* it may be pending */
  return TICKS_MOST - left;
}

static void on_timer(void) {
  stop_timer();
#if defined(__ARM_FP)
  __asm volatile("vmov.f32 s0, s0"); /* the processor saves the other's registers when they are first used */
#endif
  if (is_inside) interrupted(__builtin_frame_address(0));
}

static void on_fault(void) { board_fault(0, 0); }

/* Before the table of the start-up code, whose place in memory is then that of interrupts that are never switched on. */
const struct {
  uint8_t* stack;
  void (*handlers[15])(void);
} vectors_with_timer __attribute__((section(".vectors"), used)) = {
    __stack_top,
    {_start, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault,
     on_fault, on_timer},
};

static void listen(void) {}

#else

#define MTIME (*(volatile uint64_t*)0x0200bff8)
#define MTIMECMP (*(volatile uint64_t*)0x02004000)
#define NEVER UINT64_MAX
enum { TICKS_MOST = 0x7fffffff };

static uint64_t started;

static void start_timer(uint32_t ticks, int is_loud) {
  started = MTIME;
  MTIMECMP = is_loud ? started + ticks : NEVER;
}

static uint32_t stop_timer(void) {
  MTIMECMP = NEVER;
  return (uint32_t)(MTIME - started);
}

static __attribute__((interrupt, aligned(4))) void on_trap(void) {
  intptr_t cause;
  __asm volatile(".option push\n\t.option arch, +zicsr\n\tcsrr %0, mcause\n\t.option pop" : "=r"(cause));
  if (cause >= 0) board_fault((uintptr_t)cause, 0);
  stop_timer();
  if (is_inside) interrupted(__builtin_frame_address(0));
}

static void listen(void) {
  MTIMECMP = NEVER;
  __asm volatile(
      ".option push\n\t.option arch, +zicsr\n\tcsrw mtvec, %0\n\tcsrs mie, %1\n\tcsrsi mstatus, 8\n\t.option pop"
      :
      : "r"(on_trap), "r"(1 << 7)
      : "memory");
}

#endif

static int32_t run_first(uint32_t ticks, uint32_t* duration) {
  int32_t status;
  start_timer(ticks, duration == NULL);
  is_inside = 1;
  status = run(&first);
  is_inside = 0;
  ticks = stop_timer();
  if (duration) *duration = ticks;
  return status;
}

int main(void) {
  unsigned long fired = 0, busy = 0, wrong = 0, changed = 0;
  uint32_t duration, point;
  if (learn(&first, "first") != 0 || learn(&second, "second") != 0) return 1;
  listen();
  if (run_first(TICKS_MOST, &duration) != 0 || !is_right(&first)) return 2;
  for (point = 1; point <= POINTS; ++point) {
    forget(&first);
    forget(&second);
    is_fired = has_changed = 0;
    wrong += run_first(1 + (uint32_t)((uint64_t)duration * point / (POINTS + 1)), NULL) != 0 || !is_right(&first);
    if (!is_fired) continue;
    ++fired;
    changed += has_changed != 0;
    if (status_of_second == MLF_ERROR_ARENA_BUSY) {
      ++busy;
      wrong += !is_untouched(&second) || run(&second) != 0;
    } else {
      wrong += status_of_second != 0;
    }
    wrong += !is_right(&second);
  }
  say_number("fired", fired);
  say_number("busy", busy);
  say_number("wrong", wrong);
  say_number("changed", changed);
  return 0;
}
