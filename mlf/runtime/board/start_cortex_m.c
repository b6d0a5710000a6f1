/*
 * Reset, faults and semihosting of Cortex-M0 to Cortex-M55. Registers: Armv6-M, Armv7-M and Armv8-M Architecture
 * Reference Manuals.
 */
#include "semihosting.h"

extern uint32_t __bss_end[], __stack_top[];

#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
/* Coprocessors 10 and 11 are floating point and vectors; both are off after reset. A Cortex-M0 has no such register. */
#define CPACR (*(volatile uint32_t*)0xe000ed88)
#define CPACR_FULL_ACCESS_CP10_CP11 (UINT32_C(0xf) << 20)
#endif

/* r0 to r3, r12, lr, pc and xpsr are what the processor pushes before it enters a handler. */
enum { FRAME_PC = 6, FRAME_BYTES = 32 };

__attribute__((noreturn)) void _start(void);
__attribute__((noreturn)) void board_fault_frame(uintptr_t exception, uintptr_t frame);

void _start(void) {
#ifdef CPACR
  CPACR |= CPACR_FULL_ACCESS_CP10_CP11;
  __asm volatile("dsb\n\tisb" ::: "memory");
#endif
  board_start();
}

/* A stack pointer that left the stack points at no frame, and to read there would be the next fault. */
void board_fault_frame(uintptr_t exception, uintptr_t frame) {
  int is_in_stack = frame >= (uintptr_t)__bss_end && frame <= (uintptr_t)__stack_top - FRAME_BYTES;

  board_fault(exception, is_in_stack ? ((const uint32_t*)frame)[FRAME_PC] : 0);
}

/* Naked, because a prologue would push to a stack that may be the reason of the fault. */
__attribute__((naked)) static void fault(void) {
  __asm volatile(
      "mrs r0, ipsr\n\t"
      "mrs r1, msp\n\t"
      "ldr r2, =__fault_stack_top\n\t"
      "mov sp, r2\n\t"
      "ldr r2, =board_fault_frame\n\t"
      "bx r2\n\t"
      ".ltorg");
}

/*
 * The ABI reserves 8 bytes before the thread-local data, rounded up to the alignment of the data, for which board.ld sees
 * to 16. Only r0 may change.
 */
__attribute__((naked, weak)) void* __aeabi_read_tp(void);
void* __aeabi_read_tp(void) { __asm volatile("ldr r0, =__tls_base - 16\n\tbx lr\n\t.ltorg"); }

intptr_t semihosting_call(intptr_t operation, const void* arguments) {
  register intptr_t r0 __asm("r0") = operation;
  register const void* r1 __asm("r1") = arguments;

  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

/* The first 16 vectors. No interrupt is ever switched on, so that every one but reset tells of something unexpected. */
const struct {
  uint32_t* initial_stack;
  void (*handlers[15])(void);
} board_vectors __attribute__((section(".vectors"), used)) = {
    __stack_top,
    {_start, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault},
};
