/*
 * Memory, constructors and main, the same for every processor. The symbols come from board.ld.
 */
#include "board.h"
#include "semihosting.h"

extern uint32_t __data_start[], __data_end[], __data_load[];
extern uint32_t __tdata_start[], __tdata_end[], __tdata_load[];
extern uint32_t __bss_start[], __bss_end[];
extern uint32_t __stack_limit[], __stack_top[];
extern void (*__init_array_start[])(void);
extern void (*__init_array_end[])(void);

int main(void);

/* No memset writes a pattern whose bytes differ, so that painting the stack stays a loop that uses none of it. */
#define UNUSED_STACK UINT32_C(0x5ac3e187)

/* The frames that painting must not touch are those of this file and of the reset code. */
#define LIVE_STACK_BYTES 256

static void copy(uint32_t* to, const uint32_t* end, const uint32_t* from) {
  while (to < end) {
    *to++ = *from++;
  }
}

static void paint_stack(void) {
  uint32_t here = 0;
  uintptr_t end = (uintptr_t)&here - LIVE_STACK_BYTES;
  volatile uint32_t* word;

  for (word = __stack_limit; (uintptr_t)word < end; ++word) {
    *word = UNUSED_STACK;
  }
}

uint32_t board_stack_used(void) {
  const volatile uint32_t* word = __stack_limit;

  while (word < __stack_top && *word == UNUSED_STACK) {
    ++word;
  }
  return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)word);
}

void board_start(void) {
  uint32_t* word;
  void (**constructor)(void);

  copy(__data_start, __data_end, __data_load);
  copy(__tdata_start, __tdata_end, __tdata_load);
  for (word = __bss_start; word < __bss_end; ++word) {
    *word = 0;
  }
  paint_stack();
  for (constructor = __init_array_start; constructor < __init_array_end; ++constructor) {
    (*constructor)();
  }
  board_exit(main());
}

static void put_hex(char* to, uintptr_t value) {
  int digit;

  for (digit = 2 * (int)sizeof value - 1; digit >= 0; --digit) {
    to[digit] = "0123456789abcdef"[value & 15];
    value >>= 4;
  }
}

void board_fault(uintptr_t cause, uintptr_t address) {
  char number[2 * sizeof(uintptr_t) + 1];

  number[2 * sizeof(uintptr_t)] = '\0';
  board_puts("fault ");
  put_hex(number, cause);
  board_puts(number);
  board_puts(" at ");
  put_hex(number, address);
  board_puts(number);
  board_puts("\n");
  board_exit(BOARD_FAULT_STATUS);
}
